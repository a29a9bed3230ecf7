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
            Words("required without `kubernetes.services`, which brings those of the cluster"),
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
            "mtu",
            Whole { min: 1280, max: 9216 },
            Words("the MTU of the link towards each node"),
            "Largest IP packet between nodes, the encapsulation included (44 bytes over IPv4, 64 over IPv6).",
        ),
        field(
            "flows",
            Whole { min: 1_024, max: 16_777_216 },
            Value("524288"),
            "Flows that this node remembers, about 140 bytes of memory each. Of more it forgets the one that was silent longest, and finds it again by its socket. A change takes effect at once; the flows move.",
        ),
        field(
            "clusterRanges",
            Texts { what: "a network", right: "an address with a prefix length, such as 10.244.0.0/16" },
            Words(
                "all private ranges (RFC 1918, RFC 6598, RFC 4193, link-local), and the networks of the links of this node",
            ),
            "Networks whose hosts reach endpoints directly: nodes and pods. What an endpoint sends to them never gets a VIP as its source unless it belongs to a known flow. Addresses under `nodes` and of endpoints are always among them.",
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
            "remoteRate",
            Whole { min: 0, max: 1_000_000 },
            Value("20000"),
            "Packets a second and CPU of flows that nobody of this site knows and no row names a site for, that may ask other sites; more are dropped, and come again. 20,000 carry 100,000 flows of a few packets a second over to where they live after a route moved them, and keep a flood of stray segments below a fifth of a gigabit. A change takes effect at once.",
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
