//! Planted bugs: what the simulator of sites must find, or it proves nothing. None is a path in the shipped code: each alters what stands
//! around the machines in the way that a wrong line inside them would show.

use std::fmt;

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// A dead path is not told to the policy.
    DownUnsaid,
    /// A path on which only the way out is dead counts as up.
    OutIgnored,
    /// A path returns with its first packet.
    ReturnsAtOnce,
    /// Every third message of records is lost, although the stream says that it was not.
    DeltaLost,
    /// Peers do not say what they have read: a wiped disk brings back an old time.
    ReadUnsaid,
    /// Any site may claim any VIP.
    PrefixesIgnored,
    /// A summary of nothing ready is not given to the policy.
    ZeroUnsaid,
    /// Every third table is not applied.
    TableLost,
    /// The holder goes on after its lease has ended.
    LeaseOutlived,
    /// What the data path sees is not given to the policy.
    ObservedUnsaid,
    /// A session that is down counts as a site that is down.
    SessionDownIsSiteDown,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::DownUnsaid,
        Self::OutIgnored,
        Self::ReturnsAtOnce,
        Self::DeltaLost,
        Self::ReadUnsaid,
        Self::PrefixesIgnored,
        Self::ZeroUnsaid,
        Self::TableLost,
        Self::LeaseOutlived,
        Self::ObservedUnsaid,
        Self::SessionDownIsSiteDown,
    ];

    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DownUnsaid => "down-unsaid",
            Self::OutIgnored => "out-ignored",
            Self::ReturnsAtOnce => "returns-at-once",
            Self::DeltaLost => "delta-lost",
            Self::ReadUnsaid => "read-unsaid",
            Self::PrefixesIgnored => "prefixes-ignored",
            Self::ZeroUnsaid => "zero-unsaid",
            Self::TableLost => "table-lost",
            Self::LeaseOutlived => "lease-outlived",
            Self::ObservedUnsaid => "observed-unsaid",
            Self::SessionDownIsSiteDown => "session-down-is-site-down",
        }
    }

    /// By name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| mutant.as_str() == name)
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
