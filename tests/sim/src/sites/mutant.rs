//! Planted bugs: what the simulator of sites must find, or it proves nothing. None is a path in the shipped code: each alters what stands
//! around the machines in the way that a wrong line inside them would show.

use crate::planted::planted;

planted! {
    /// A dead path is not told to the policy.
    DownUnsaid = "down-unsaid",
    /// A path on which only the way out is dead counts as up.
    OutIgnored = "out-ignored",
    /// A path returns with its first packet.
    ReturnsAtOnce = "returns-at-once",
    /// How slow a path is is told as half of it at most.
    SlownessUnsaid = "slowness-unsaid",
    /// The authority is gone with its witness.
    WitnessNeeded = "witness-needed",
    /// A newer relay says that it is none.
    NewerUnsaid = "newer-unsaid",
    /// An older relay is taken for one of this version.
    OlderUnheard = "older-unheard",
    /// Every third message of records is lost, although the stream says that it was not.
    DeltaLost = "delta-lost",
    /// Peers do not say what they have read: a wiped disk brings back an old time.
    ReadUnsaid = "read-unsaid",
    /// Any site may claim any VIP.
    PrefixesIgnored = "prefixes-ignored",
    /// A summary of nothing ready is not given to the policy.
    ZeroUnsaid = "zero-unsaid",
    /// Every third table is not applied.
    TableLost = "table-lost",
    /// The holder goes on after its lease has ended.
    LeaseOutlived = "lease-outlived",
    /// There is no authority: each site does what it thinks that it should.
    NoAuthority = "no-authority",
    /// What the data path sees is not given to the policy.
    ObservedUnsaid = "observed-unsaid",
    /// A session that is down counts as a site that is down.
    SessionDownIsSiteDown = "session-down-is-site-down",
    /// What relays know of other sites is not told to the nodes of their own.
    FactsUnsaid = "facts-unsaid",
    /// Relays do not say that what they hold is still so.
    AgesUnsaid = "ages-unsaid",
    /// What a site reaches is not told to others.
    ReachUnsaid = "reach-unsaid",
    /// Others are told that it reaches nobody.
    ReachDenied = "reach-denied",
    /// The word of a relay counts on when it is dead.
    DeadWordCounts = "dead-word-counts",
    /// A relay that returns says what it knew when it went, as if that were so now.
    StaleWord = "stale-word",
    /// A relay does not say to other sites that it leads, or does not any more.
    RankUnsaid = "rank-unsaid",
}
