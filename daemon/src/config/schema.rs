//! The one table of every field: what the reader accepts, checks and fills in, and what the reference prints.
//!
//! A field that is not here is refused, a range here is the range that is checked, a default here is the default that is used.

/// A mapping and its fields.
#[derive(Debug)]
pub(super) struct Section {
    /// Heading in the reference; the path of the mapping.
    pub(super) path: &'static str,
    /// What the section is for.
    pub(super) about: &'static str,
    pub(super) fields: &'static [Field],
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Absent,
    pub(super) meaning: &'static str,
}

/// What a field holds.
#[derive(Debug)]
pub(super) enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number, both ends included.
    Whole { min: u64, max: u64 },
    /// A time in milliseconds, both ends included, a multiple of `step`.
    Time { min: u64, max: u64, step: u64 },
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text; the parser belongs to the reader, the words say what is right.
    Text { what: &'static str, right: &'static str },
    /// A list of such texts.
    Texts { what: &'static str, right: &'static str },
    /// A mapping.
    Section(&'static Section),
    /// A list of mappings.
    Sections(&'static Section),
    /// A mapping of names to mappings.
    Named(&'static Section),
}

impl Kind {
    /// The table of what is inside.
    pub(super) fn inner(&self) -> Option<&'static Section> {
        match self {
            Self::Section(inner) | Sections(inner) | Named(inner) => Some(inner),
            Flag | Whole { .. } | Time { .. } | Word(_) | Text { .. } | Texts { .. } => None,
        }
    }
}

/// What holds when a field is not given.
#[derive(Debug)]
pub(super) enum Absent {
    /// It must be given.
    Required,
    /// This value, in YAML.
    Value(&'static str),
    /// What happens, in words.
    Words(&'static str),
}

mod bfd;
mod bgp;
mod forwarding;
mod gates;
mod kubernetes;
mod lease;
mod services;
mod sites;

pub(super) use bgp::{EXPORT, NEIGHBOR};
pub(super) use sites::SITES;

use super::INSTANCE_MAX;
use Absent::{Required, Value, Words};
use Kind::{Flag, Named, Sections, Text, Texts, Time, Whole, Word};

const NAME: &str = "1 to 63 of a-z, 0-9 and -, no - at an end";
const NODE: &str = "1 to 63 letters, digits and - . _, a letter or digit at both ends";
const ADDRESS: &str = "a unicast address without prefix length, such as 10.9.0.100";

const fn field(key: &'static str, kind: Kind, default: Absent, meaning: &'static str) -> Field {
    Field { key, kind, default, meaning }
}

/// The whole file.
pub(super) static ROOT: Section = Section {
    path: "",
    about: "The file of one node.",
    fields: &[
        field(
            "node",
            Text { what: "a name", right: NODE },
            Words("the host name"),
            "Name of this node among its peers.",
        ),
        field(
            "instance",
            Whole { min: 0, max: INSTANCE_MAX as u64 },
            Value("0"),
            "Which of several daemons on this node it is, such as a static pod and one of a DaemonSet: each has a number of its own, and by it its own addresses, pins, admin socket and peer port.",
        ),
        field(
            "fence",
            Word(&["required", "preferred", "off"]),
            Value("required"),
            "What to do when the fence (eBPF) cannot be armed. `required`: not ready, and no claim; `preferred`: claim without it and say so; `off`: never load it.",
        ),
        field("admin", Kind::Section(&ADMIN), Words("its defaults"), "How to look at the node."),
        field("log", Kind::Section(&LOG), Words("its defaults"), "What the daemon writes to standard error."),
        field(
            "peers",
            Kind::Section(&PEERS),
            Words("no peer channel"),
            "The signed channel for planned hand-over; without it a stop falls back to priority 0.",
        ),
        field("bgp", Kind::Section(&bgp::BGP), Words("no BGP"), "The BGP speaker."),
        field("gates", Sections(&gates::GATE), Value("[]"), "Health gates."),
        field("bfd", Kind::Section(&bfd::BFD), Words("no BFD"), "BFD sessions that no other section asks for."),
        field(
            "kubernetes",
            Kind::Section(&kubernetes::KUBERNETES),
            Words("the pod's ServiceAccount, where a VIP needs the API"),
            "The Kubernetes API.",
        ),
        field(
            "etcd",
            Kind::Section(&lease::ETCD),
            Words("required by `elector: etcd` and `mode: activePassive`"),
            "The etcd that holds leases.",
        ),
        field(
            "forwarding",
            Kind::Section(&forwarding::FORWARDING),
            Words("packets of VIPs go to the sockets of their owner"),
            "The data plane.",
        ),
        field("services", Sections(&services::SERVICE), Value("[]"), "Services, at most 4096."),
        field("site", Kind::Section(&sites::SITE), Words("this site is alone"), "This site among others."),
        field(
            "sites",
            Named(&sites::SITES),
            Words("required by `site`"),
            "All sites, this one among them, at most 16.",
        ),
        field(
            "vips",
            Sections(&VIP),
            Words("required without `forwarding` and `kubernetes.services`"),
            "Virtual IPs, at least one without `forwarding` and `kubernetes.services`: a node may carry endpoints only.",
        ),
    ],
};

static ADMIN: Section = Section {
    path: "admin",
    about: "Admin socket and HTTP listener.",
    fields: &[
        field(
            "socket",
            Text { what: "a path", right: "an absolute path of at most 107 bytes" },
            Words("`/run/bascule/admin.sock`; `/run/bascule/admin-N.sock` of instance N"),
            "Unix socket of the CLI, for root only.",
        ),
        field(
            "http",
            Text { what: "an address", right: "an address with a port, such as 127.0.0.1:9750" },
            Words("no listener"),
            "TCP listener for /metrics, /live, /ready and /state.",
        ),
    ],
};

static LOG: Section = Section {
    path: "log",
    about: "Logs.",
    fields: &[
        field("format", Word(&["text", "json"]), Value("text"), "One line per event, for people or for machines."),
        field(
            "level",
            Text { what: "a log filter", right: "error, warn, info, debug, trace, or target=level, joined by commas" },
            Value("info"),
            "What to write, a tracing filter.",
        ),
    ],
};

static PEERS: Section = Section {
    path: "peers",
    about: "Peer channel.",
    fields: &[
        field(
            "keyFile",
            Text { what: "a path", right: "a file only its owner reads, with 1 or 2 lines of 32 to 128 hex digits" },
            Required,
            "Shared keys, hexadecimal, 16 to 64 bytes each, one a line: the first signs, both verify. A relative path starts at the configuration file.",
        ),
        field(
            "port",
            Whole { min: 1, max: 65535 },
            Words("`3112`; `3112 + N` of instance N"),
            "UDP port, the same on all nodes.",
        ),
    ],
};

static VIP: Section = Section {
    path: "vips[]",
    about: "Addresses that move together, and their virtual router or their lease. With VRRP `vrid` and exactly one of `priority` and `nodes`; with a lease nothing of the virtual router (`linkLocal`, `vrid`, `priority`, `nodes`, `advertInterval`, `preempt`, `strictRfc`, `unicastPeers`, `drainTime`); with `scope: all` only `name`, `addresses`, `announce: bgp` and `gates`.",
    fields: &[
        field("name", Text { what: "a name", right: NAME }, Required, "Unique name."),
        field(
            "addresses",
            Texts { what: "an address", right: ADDRESS },
            Required,
            "1 to 20 addresses of each family (any number with `scope: all`), each in one VIP only. The first finds the interface.",
        ),
        field(
            "linkLocal",
            Text { what: "an address", right: "an address of fe80::/10, such as fe80::100" },
            Words("`fe80::200:5eff:fe00:2VV`, VV the VRID in hexadecimal"),
            "First address of the IPv6 virtual router; only with IPv6 addresses.",
        ),
        field(
            "interface",
            Text { what: "a name", right: "a link name of 1 to 15 bytes without / and spaces, such as eth0" },
            Words("the link with an own address whose subnet contains the first address"),
            "Link that carries the addresses and the election.",
        ),
        field(
            "ownership",
            Word(&["available", "safe"]),
            Words("by `elector`; without both `available`"),
            "`available`: elected by VRRP, which needs nobody, and shows two owners for a bounded time while the network itself is split. `safe`: elected by a lease; never two owners, and none while its store is away.",
        ),
        field(
            "elector",
            Word(&["vrrp", "kubernetes", "etcd"]),
            Words("by `ownership`: `vrrp` for `available`, `kubernetes` for `safe`"),
            "Who elects: VRRP, a Lease of the Kubernetes API, or a lease of etcd.",
        ),
        field("lease", Kind::Section(&lease::LEASE), Words("its defaults"), "The lease, with a lease elector only."),
        field(
            "vrid",
            Whole { min: 1, max: 255 },
            Words("required with VRRP"),
            "Virtual router id, unique on the interface, the same on all nodes.",
        ),
        field(
            "priority",
            Whole { min: 100, max: 254 },
            Words("by `nodes`"),
            "Priority of this node while healthy; the highest of the live ones owns.",
        ),
        field(
            "nodes",
            Texts { what: "a name", right: NODE },
            Words("-"),
            "Nodes in order of rank, this one among them: priority 254, 206, 158, 110, then 109, 108 and so on down to 100.",
        ),
        field(
            "advertInterval",
            Time { min: 10, max: 40_950, step: 10 },
            Value("100ms"),
            "Time between adverts. A Backup takes over after about three.",
        ),
        field("preempt", Flag, Value("false"), "A healthy node takes the VIP from a healthy one of lower priority."),
        field(
            "accept",
            Flag,
            Value("true"),
            "The owner serves packets for the addresses itself (RFC 9568 Accept_Mode).",
        ),
        field(
            "strictRfc",
            Flag,
            Value("false"),
            "An Active never yields to a lower-priority Active that it keeps hearing.",
        ),
        field(
            "unicastPeers",
            Texts { what: "an address", right: ADDRESS },
            Value("[]"),
            "Send adverts to these nodes only, and accept them from these only; at least one for each family of `addresses`. This node's own address may be among them. Empty: multicast.",
        ),
        field(
            "conflictProbe",
            Flag,
            Value("true"),
            "Ask three times, 200 ms apart, whether somebody else holds an address, once after the start.",
        ),
        field(
            "gates",
            Texts { what: "a name", right: "the name of a gate of this file" },
            Value("[]"),
            "Gates that must all be open for this node to be healthy.",
        ),
        field(
            "whenAllFail",
            Word(&["keep", "release"]),
            Value("keep"),
            "What a sick owner does when no healthy node takes over: `keep` the VIP, or `release` it.",
        ),
        field(
            "announce",
            Word(&["l2", "bgp", "both"]),
            Value("l2"),
            "How the network learns where the addresses are: by gratuitous ARP and unsolicited NA, by host routes over BGP, or by both.",
        ),
        field(
            "scope",
            Word(&["owner", "all"]),
            Value("owner"),
            "Who announces: the owner that was elected, or every node whose gates are open (anycast; the addresses stand on `lo`).",
        ),
        field("l2", Kind::Section(&L2), Words("its defaults"), "Schedule of gratuitous ARP and unsolicited NA."),
        field(
            "drainTime",
            Time { min: 0, max: 60_000, step: 1 },
            Value("1s"),
            "How long frames that still arrive are served after a planned move.",
        ),
    ],
};

static L2: Section = Section {
    path: "vips[].l2",
    about: "The first announcement leaves in the step that takes the VIP; then the burst, then the refresh.",
    fields: &[
        field("burst", Whole { min: 0, max: 20 }, Value("3"), "Repetitions after the first announcement."),
        field("burstInterval", Time { min: 10, max: 10_000, step: 1 }, Value("100ms"), "Time between them."),
        field(
            "refresh",
            Time { min: 1_000, max: 3_600_000, step: 1 },
            Value("60s"),
            "Time between announcements after the burst; below the ageing time of the switches (300 s by default).",
        ),
    ],
};

impl Section {
    /// The field with this key.
    pub(super) fn field(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|f| f.key == key)
    }
}

impl Kind {
    /// What would be right, as in "use ...".
    pub(super) fn right(&self) -> String {
        match self {
            Flag => "true or false".into(),
            Whole { min, max } => format!("{min} to {max}"),
            Time { min, max, .. } => format!("{} to {}", time(*min), time(*max)),
            Word(words) => match words.split_last() {
                Some((last, [])) => (*last).to_owned(),
                Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                None => String::new(),
            },
            Text { right, .. } => (*right).to_owned(),
            Texts { right, .. } => format!("a list, each {right}"),
            Kind::Section(_) => "a mapping".into(),
            Sections(_) => "a list of mappings".into(),
            Named(_) => "a mapping of names to mappings".into(),
        }
    }
}

impl Kind {
    /// What would be right for one value of a list.
    pub(super) fn item_right(&self) -> String {
        match self {
            Texts { right, .. } => (*right).to_owned(),
            Flag | Whole { .. } | Time { .. } | Word(_) | Text { .. } | Kind::Section(_) | Sections(_) | Named(_) => {
                self.right()
            }
        }
    }
}

/// Milliseconds as a person writes them: `1h`, `60s`, `40950ms`.
pub(super) fn time(ms: u64) -> String {
    match ms {
        0 => "0ms".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}
