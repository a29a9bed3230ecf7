//! The part of the table that concerns forwarding.

use super::Absent::{Required, Value, Words};
use super::Kind::{Flag, Sections, Text, Texts, Time, Whole, Word};
use super::{ADDRESS, NODE, Section, field};

pub(super) static FORWARDING: Section = Section {
    path: "forwarding",
    about: "The data plane: which nodes balance and carry endpoints, and how packets travel between them. `nodes`, the keys and `port` are the same on all nodes.",
    fields: &[
        field(
            "nodes",
            Sections(&NODES),
            Required,
            "All nodes of this site that balance or carry endpoints, this one among them.",
        ),
        field(
            "keyFile",
            Text {
                what: "a path",
                right: "a file only its owner reads, with lines of 0: or 1: and flow:, each with 32 to 128 hex digits",
            },
            Required,
            "Keys, one a line, 16 to 64 bytes in hexadecimal. `0:HEX` and `1:HEX` authenticate encapsulation: the first of them signs, both verify. `flow:HEX` steers flows and must never change. A relative path starts at the configuration file.",
        ),
        field(
            "port",
            Whole { min: 1, max: 65535 },
            Value("7846"),
            "UDP port of the encapsulation, the same on all nodes.",
        ),
        field(
            "hook",
            Word(&["auto", "xdp", "tc"]),
            Value("auto"),
            "Where packets are taken. `xdp`: in the driver, only where it supports that; `tc`: behind it; `auto`: `xdp` where it works, else `tc`, decided for each link.",
        ),
        field(
            "interfaces",
            Texts { what: "a name", right: "a link name of 1 to 15 bytes without / and spaces, such as eth0" },
            Words("the links that carry the addresses of this node under `nodes`"),
            "Links on which packets for VIPs and encapsulation arrive.",
        ),
        field(
            "internalNetworks",
            Texts { what: "a network", right: "a network such as 10.244.0.0/16 or 2001:db8::/32" },
            Value("[]"),
            "Networks whose hosts reach endpoints by the endpoints' own addresses, such as those of pods and of monitoring: an answer to them that belongs to no known connection keeps its source. The nodes are always among them.",
        ),
        field(
            "mtu",
            Whole { min: 1280, max: 9216 },
            Words("the MTU of the link towards each node"),
            "Largest IP packet between nodes, the encapsulation included (44 bytes over IPv4, 64 over IPv6).",
        ),
        field(
            "udpIdle",
            Time { min: 1_000, max: 3_600_000, step: 1 },
            Value("60s"),
            "A UDP flow without a packet for so long is over.",
        ),
        field(
            "orphanRate",
            Whole { min: 0, max: 1_000_000 },
            Value("1000"),
            "Packets a second and CPU that belong to no known flow and are answered by the stack (with a RST); more are dropped.",
        ),
        field(
            "icmpRate",
            Whole { min: 0, max: 1_000_000 },
            Value("1000"),
            "ICMP packets a second and CPU made here: echo replies, and \"too big\" where the encapsulation does not fit.",
        ),
    ],
};

static NODES: Section = Section {
    path: "forwarding.nodes[]",
    about: "A node. Its id stands in tables and packets: it stays the node's for good, and is not given to another within a drain time.",
    fields: &[
        field("name", Text { what: "a name", right: NODE }, Required, "Its `node`."),
        field("id", Whole { min: 1, max: 4095 }, Required, "Unique number."),
        field(
            "addresses",
            Texts { what: "an address", right: ADDRESS },
            Required,
            "1 to 8 own addresses that do not move. Encapsulation goes to the first and is accepted from all.",
        ),
        field(
            "draining",
            Flag,
            Value("false"),
            "New connections go to endpoints of other nodes, as long as there are any; running ones stay.",
        ),
    ],
};
