//! What became of a packet: the slots of the per-CPU array of tallies.

/// Ways a packet is dropped; the value is its slot in the tallies, 1..64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum PacketDrop {
    /// The service has no node that could take it.
    NoEndpoint = 1,
    /// Source outside the service's ranges.
    SourceRange = 2,
    /// Encapsulation from an address that is no peer.
    EncapPeer = 3,
    /// Version, reserved bits, lengths of the encapsulation.
    EncapFormat = 4,
    /// Tag wrong, or its key slot not valid.
    EncapTag = 5,
    /// Encapsulation inside encapsulation.
    EncapNested = 6,
    /// The packet inside is for no service of ours, or not for the one the shim names.
    EncapService = 7,
    /// The next node has no known way to it.
    Unresolved = 8,
    /// Encapsulated it does not fit; the sender was told, or the rate for telling was used up.
    TooBig = 9,
    /// The frame could not be made longer or shorter (headroom).
    Headroom = 10,
    /// A chain that would go on past its end or to its own node.
    ChainEnd = 11,
    /// Orphan beyond the rate that the stack may answer.
    OrphanRate = 12,
    /// ICMP beyond our rate.
    IcmpRate = 13,
    /// Beyond the rate for asking other sites.
    RemoteRate = 14,
    /// A fragment whose first one was not seen.
    FragmentOrder = 15,
    /// Hop limit used up on the way between nodes.
    HopLimit = 16,
    /// Flow table refused an entry.
    FlowTable = 17,
    /// A header that lies about lengths in a packet for a VIP.
    Malformed = 18,
    /// A flow of another site that nobody here knows and nobody else may be asked for.
    RemoteMiss = 19,
    /// Its sender is not of the site for which the encapsulation speaks.
    EncapSite = 20,
}

impl PacketDrop {
    /// Every reason, in the order of its slot.
    pub const ALL: [Self; 20] = [
        Self::NoEndpoint,
        Self::SourceRange,
        Self::EncapPeer,
        Self::EncapFormat,
        Self::EncapTag,
        Self::EncapNested,
        Self::EncapService,
        Self::Unresolved,
        Self::TooBig,
        Self::Headroom,
        Self::ChainEnd,
        Self::OrphanRate,
        Self::IcmpRate,
        Self::RemoteRate,
        Self::FragmentOrder,
        Self::HopLimit,
        Self::FlowTable,
        Self::Malformed,
        Self::RemoteMiss,
        Self::EncapSite,
    ];

    /// Stable name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::SourceRange => "source_range",
            Self::EncapPeer => "encap_peer",
            Self::EncapFormat => "encap_format",
            Self::EncapTag => "encap_tag",
            Self::EncapNested => "encap_nested",
            Self::EncapService => "encap_service",
            Self::Unresolved => "unresolved",
            Self::TooBig => "too_big",
            Self::Headroom => "headroom",
            Self::ChainEnd => "chain_end",
            Self::OrphanRate => "orphan_rate",
            Self::IcmpRate => "icmp_rate",
            Self::RemoteRate => "remote_rate",
            Self::FragmentOrder => "fragment_order",
            Self::HopLimit => "hop_limit",
            Self::FlowTable => "flow_table",
            Self::Malformed => "malformed",
            Self::RemoteMiss => "remote_miss",
            Self::EncapSite => "encap_site",
        }
    }
}

/// What else is counted, per CPU; the value is its slot, 64 and above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Tally {
    /// Packets that named no service: passed untouched.
    Passed = 64,
    /// Packets sent to another node as the first of its chain.
    Encapsulated = 65,
    /// Packets that arrived encapsulated and were accepted.
    Decapsulated = 66,
    /// Sent on along the chain.
    NextHop = 67,
    /// Sent on to whom the own row named, when the chain was at its end.
    LookAhead = 68,
    /// Delivered by an entry of the flow table.
    FlowHit = 69,
    /// Delivered because it opens a flow.
    FlowNew = 70,
    /// Delivered because an endpoint's socket knows it; an entry was made.
    SocketHit = 71,
    /// Delivered because it carries a valid SYN cookie.
    CookieHit = 72,
    /// Nobody knew it: the stack of an endpoint answers.
    Orphan = 73,
    /// Replies rewritten by the flow table.
    ReplyFlow = 74,
    /// Replies rewritten by the half-open table.
    ReplyHalf = 75,
    /// Replies rewritten by the reverse map.
    ReplyReverse = 76,
    /// Replies sent back through their ingress node.
    ReplyVia = 77,
    /// MSS options that were lowered.
    MssClamped = 78,
    /// "Fragmentation needed" and "packet too big" messages sent.
    TooBigSent = 79,
    /// Echo requests answered.
    EchoAnswered = 80,
    /// ICMP errors taken to the flow inside them.
    IcmpError = 81,
    /// Packets of flows that were sent to another site, which may know them.
    Remote = 82,
    /// Tuples that two VIPs share: another endpoint was taken.
    Collision = 83,
    /// Packets sent to another site because it is the home of their row.
    ToSite = 84,
    /// Packets that came from another site, of clients there.
    FromSite = 85,
    /// Packets that came back because no other site knew them.
    RemoteBack = 86,
    /// Packets sent straight to the node of another site that had said that their flow lives there.
    Pinned = 87,
    /// Replies of which the node of another site, where their flow's packets come in, was sent a copy.
    Told = 88,
    /// Flows that were noted to live in another site, by a reply or a copy of one.
    Learned = 89,
    /// Chain length of accepted packets, a histogram: this slot is the first node, the next the second, ...
    Hops = 96,
}

/// Slots of the histogram that starts at [`Tally::Hops`].
pub const HOP_BUCKETS: u32 = 8;

impl Tally {
    /// Every tally but the histogram.
    pub const ALL: [Self; 26] = [
        Self::Passed,
        Self::Encapsulated,
        Self::Decapsulated,
        Self::NextHop,
        Self::LookAhead,
        Self::FlowHit,
        Self::FlowNew,
        Self::SocketHit,
        Self::CookieHit,
        Self::Orphan,
        Self::ReplyFlow,
        Self::ReplyHalf,
        Self::ReplyReverse,
        Self::ReplyVia,
        Self::MssClamped,
        Self::TooBigSent,
        Self::EchoAnswered,
        Self::IcmpError,
        Self::Remote,
        Self::Collision,
        Self::ToSite,
        Self::FromSite,
        Self::RemoteBack,
        Self::Pinned,
        Self::Told,
        Self::Learned,
    ];

    /// Stable name for metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Encapsulated => "encapsulated",
            Self::Decapsulated => "decapsulated",
            Self::NextHop => "next_hop",
            Self::LookAhead => "look_ahead",
            Self::FlowHit => "flow_hit",
            Self::FlowNew => "flow_new",
            Self::SocketHit => "socket_hit",
            Self::CookieHit => "cookie_hit",
            Self::Orphan => "orphan",
            Self::ReplyFlow => "reply_flow",
            Self::ReplyHalf => "reply_half",
            Self::ReplyReverse => "reply_reverse",
            Self::ReplyVia => "reply_via",
            Self::MssClamped => "mss_clamped",
            Self::TooBigSent => "too_big_sent",
            Self::EchoAnswered => "echo_answered",
            Self::IcmpError => "icmp_error",
            Self::Remote => "remote",
            Self::Collision => "collision",
            Self::ToSite => "to_site",
            Self::FromSite => "from_site",
            Self::RemoteBack => "remote_back",
            Self::Pinned => "pinned",
            Self::Told => "told",
            Self::Learned => "learned",
            Self::Hops => "hops",
        }
    }
}
