//! The part of the table that concerns BGP.

use super::Absent::{Required, Value, Words};
use super::Kind::{Flag, Section as Mapping, Sections, Text, Texts, Time, Whole, Word};
use super::bfd::{MINIMUM_TTL, MULTIPLIER, RECEIVE_INTERVAL, TRANSMIT_INTERVAL};
use super::{ADDRESS, NAME, Section, field};

/// Largest value of a 4-octet field: AS numbers (RFC 6793), MED, LOCAL_PREF.
const WORD_MAX: u64 = 4_294_967_295;

const COMMUNITY: &str = "AS:VALUE of two numbers up to 65535, or no-export, no-advertise, no-export-subconfed, no-peer, blackhole, graceful-shutdown";

pub(super) static BGP: Section = Section {
    path: "bgp",
    about: "The BGP speaker. It announces host routes of VIPs with `announce: bgp` or `both`, and learns none.",
    fields: &[
        field("asn", Whole { min: 1, max: WORD_MAX }, Required, "AS number of this node; not 23456 (RFC 6793)."),
        field(
            "routerId",
            Text { what: "an IPv4 address", right: "an IPv4 address, such as 10.0.0.11, not 0.0.0.0" },
            Words(
                "`source` of the first IPv4 neighbor, the lowest own IPv4 address, or a number made of the node's name",
            ),
            "BGP Identifier, unique in the AS (RFC 6286). The choice is made at the start and kept.",
        ),
        field(
            "drainTime",
            Time { min: 0, max: 60_000, step: 1 },
            Value("5s"),
            "How long routes are announced with GRACEFUL_SHUTDOWN (RFC 8326) before `bascule drain` and a stop withdraw them.",
        ),
        field(
            "listen",
            Text { what: "an address", right: "an address with a port, such as \"[::]:179\"" },
            Value("\"[::]:179\""),
            "Where neighbors may dial; opened only when the mode of one is `passive` or `both`.",
        ),
        field(
            "neighbors",
            Sections(&NEIGHBOR),
            Words("none, and required without `kubernetes.services`"),
            "The routers, at least one; BgpPeers of the cluster are further ones.",
        ),
    ],
};

pub(in crate::config) static NEIGHBOR: Section = Section {
    path: "bgp.neighbors[]",
    about: "One router. `multihop` and `ttlSecurity` exclude one another.",
    fields: &[
        field("name", Text { what: "a name", right: NAME }, Required, "Unique name, also of its BFD session."),
        field(
            "address",
            Text { what: "an address", right: ADDRESS },
            Required,
            "Its address; a link-local one needs `interface`.",
        ),
        field("port", Whole { min: 1, max: 65535 }, Value("179"), "Its TCP port."),
        field(
            "remoteAs",
            Text { what: "an AS", right: "external, internal or 1 to 4294967295" },
            Required,
            "Its AS: any but ours, ours, or this number.",
        ),
        field("localAs", Whole { min: 1, max: WORD_MAX }, Words("`bgp.asn`"), "Own AS towards this neighbor."),
        field(
            "mode",
            Word(&["active", "passive", "both"]),
            Value("active"),
            "Who dials: this node, the neighbor, or both (collisions are resolved by RFC 4271 section 6.8).",
        ),
        field(
            "families",
            Texts { what: "a family", right: "ipv4 or ipv6" },
            Words("the family of `address`"),
            "Families of routes that are offered.",
        ),
        field(
            "holdTime",
            Time { min: 0, max: 65_535_000, step: 1_000 },
            Value("90s"),
            "Hold time offered; the smaller of both sides holds. `0s`: no keepalives; 1s and 2s do not exist (RFC 4271 section 4.2).",
        ),
        field(
            "connectRetry",
            Time { min: 1_000, max: 3_600_000, step: 1 },
            Value("5s"),
            "Between attempts to connect, less a quarter at random.",
        ),
        field(
            "gracefulRestart",
            Time { min: 1_000, max: 4_095_000, step: 1_000 },
            Words("not offered"),
            "Graceful restart (RFC 4724) with this Restart Time: `bascule restart` keeps the routes while the daemon is away.",
        ),
        field(
            "maxPrefix",
            Whole { min: 1, max: WORD_MAX },
            Words("no limit"),
            "Prefixes that it may send; all are discarded anyway.",
        ),
        field(
            "maxPrefixAction",
            Word(&["warn", "reset"]),
            Value("warn"),
            "When there are more: say so once, or close the session until an operator or a new configuration opens it.",
        ),
        field(
            "passwordFile",
            Text { what: "a path", right: "a file only its owner reads, with one line of 1 to 80 bytes" },
            Words("no password"),
            "TCP MD5 key (RFC 2385). A relative path starts at the configuration file. A key in place of another one is taken by the session that stands: change the router's within the hold time.",
        ),
        field(
            "source",
            Text { what: "an address", right: ADDRESS },
            Words("the kernel's choice"),
            "Own address of the session.",
        ),
        field(
            "interface",
            Text { what: "a name", right: "a link name of 1 to 15 bytes without / and spaces, such as eth0" },
            Words("by routing"),
            "Link that the session is bound to, and the scope of link-local addresses.",
        ),
        field(
            "multihop",
            Whole { min: 1, max: 255 },
            Words("1 for an external neighbor, 255 for an internal one"),
            "TTL of what is sent: how many hops away it may be. BFD becomes multihop BFD (RFC 5883).",
        ),
        field(
            "ttlSecurity",
            Whole { min: 1, max: 254 },
            Words("off"),
            "GTSM (RFC 5082): packets from more hops away than this are dropped; 1 is a neighbor on the link.",
        ),
        field(
            "bfd",
            Mapping(&BFD),
            Words("no BFD"),
            "BFD with this neighbor: the session counts only while BFD is up.",
        ),
        field(
            "nextHop",
            Text { what: "an address", right: ADDRESS },
            Words("own address of the session"),
            "Next hop of IPv4 routes.",
        ),
        field(
            "nextHop6",
            Text { what: "an address", right: ADDRESS },
            Words("own address of the session"),
            "Next hop of IPv6 routes.",
        ),
        field("export", Mapping(&EXPORT), Words("every route as it is"), "How routes are presented."),
    ],
};

static BFD: Section = Section {
    path: "bgp.neighbors[].bfd",
    about: "BFD (RFC 5880) with the neighbor, single hop or, with `multihop`, multihop. `bfd: {}` takes the defaults.",
    fields: &[TRANSMIT_INTERVAL, RECEIVE_INTERVAL, MULTIPLIER, MINIMUM_TTL],
};

/// What is done with a route; stands in the policy and in each of its rules.
macro_rules! action {
    ($($own:expr),* $(,)?) => {
        &[
            field("deny", Flag, Value("false"), "Not announced to this neighbor."),
            field("communities", Texts { what: "a community", right: COMMUNITY }, Value("[]"), "COMMUNITIES (RFC 1997)."),
            field(
                "largeCommunities",
                Texts { what: "a large community", right: "three numbers up to 4294967295, such as 65001:1:2" },
                Value("[]"),
                "LARGE_COMMUNITY (RFC 8092).",
            ),
            field(
                "extendedCommunities",
                Texts { what: "an extended community", right: "rt:AS:NUMBER, rt:IPV4:NUMBER, or the same with soo" },
                Value("[]"),
                "Route targets and sites of origin (RFC 4360, RFC 5668).",
            ),
            field("med", Whole { min: 0, max: WORD_MAX }, Words("none"), "MULTI_EXIT_DISC."),
            field("localPref", Whole { min: 0, max: WORD_MAX }, Words("100"), "LOCAL_PREF, sent to internal neighbors only."),
            field("prepend", Whole { min: 0, max: 10 }, Value("0"), "How many more times the own AS is prepended."),
            $($own,)*
        ]
    };
}

pub(in crate::config) static EXPORT: Section = Section {
    path: "bgp.neighbors[].export",
    about: "What is done with routes on their way out, unless a rule names their VIP.",
    fields: action![field("rules", Sections(&RULE), Value("[]"), "By VIP: the rule that names it holds instead.")],
};

static RULE: Section = Section {
    path: "bgp.neighbors[].export.rules[]",
    about: "Holds for these VIPs instead of what stands beside `rules`, as a whole: what is not given here is at its default.",
    fields: action![field(
        "vips",
        Texts { what: "a name", right: "the name of a VIP announced over BGP" },
        Required,
        "VIPs, each in one rule only."
    )],
};
