//! The part of the table that concerns BFD.

use super::Absent::{Required, Value, Words};
use super::Kind::{Flag, Sections, Text, Time, Whole};
use super::{ADDRESS, Field, Section, field};

pub(super) static BFD: Section = Section {
    path: "bfd",
    about: "Bidirectional Forwarding Detection (RFC 5880): is a neighbor reachable, both ways, within a fraction of a second. Events, logs, metrics and `bascule bfd` tell.",
    fields: &[field("peers", Sections(&BFD_PEER), Required, "Sessions.")],
};

/// Of a multihop session; stands in both places where one is configured.
pub(super) const MINIMUM_TTL: Field = field(
    "minimumTtl",
    Whole { min: 1, max: 255 },
    Words("256 less `multihop`: what a peer that sends with 255 arrives with"),
    "Smallest TTL of the peer's packets, with `multihop` only. BIRD sends them with the system's 64: 64 less the routers in between. 1 hears any.",
);

/// Of sessions that another section asks for.
pub(super) const TRANSMIT_INTERVAL: Field = field(
    "transmitInterval",
    Time { min: 10, max: 60_000, step: 1 },
    Value("300ms"),
    "Shortest time between own packets.",
);
pub(super) const RECEIVE_INTERVAL: Field = field(
    "receiveInterval",
    Time { min: 10, max: 60_000, step: 1 },
    Value("300ms"),
    "Shortest time between its packets.",
);
pub(super) const MULTIPLIER: Field = field(
    "multiplier",
    Whole { min: 1, max: 255 },
    Value("3"),
    "Packets that may be lost before the path counts as down.",
);

static BFD_PEER: Section = Section {
    path: "bfd.peers[]",
    about: "One session. It runs at the slower of what this side wants to send and the peer wants to receive, each way for itself; a peer is gone after its own multiplier times that interval without a packet. Changed intervals and TTLs do not take a session down; another address, source or interface makes a new one.",
    fields: &[
        field("address", Text { what: "an address", right: ADDRESS }, Required, "The peer."),
        field(
            "interface",
            Text { what: "a name", right: "a link name of 1 to 15 bytes without / and spaces, such as eth0" },
            Words("the link with an own address whose subnet contains the peer"),
            "Link of a single-hop session; a link-local peer needs it.",
        ),
        field(
            "source",
            Text { what: "an address", right: ADDRESS },
            Words("the own address in the peer's subnet; by routing with `multihop`"),
            "Own address; the peer's side of the session must name it.",
        ),
        field(
            "multihop",
            Whole { min: 1, max: 255 },
            Words("single hop: on the link, TTL 255"),
            "A multihop session (RFC 5883) over at most this many hops.",
        ),
        MINIMUM_TTL,
        field(
            "transmitInterval",
            Time { min: 10, max: 60_000, step: 1 },
            Value("300ms"),
            "Shortest time between packets that this node sends.",
        ),
        field(
            "receiveInterval",
            Time { min: 10, max: 60_000, step: 1 },
            Value("300ms"),
            "Shortest time between packets that this node asks for. Below 50ms the node needs real-time scheduling (CAP_SYS_NICE).",
        ),
        field(
            "multiplier",
            Whole { min: 1, max: 255 },
            Value("3"),
            "The peer takes this node for gone after so many intervals.",
        ),
        field("passive", Flag, Value("false"), "Say nothing before the peer was heard."),
    ],
};
