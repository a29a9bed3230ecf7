//! The part of the table that concerns Kubernetes.

use super::Absent::{Value, Words};
use super::Kind::{Flag, Section as Mapping, Text, Texts, Time, Whole, Word};
use super::bfd::{MINIMUM_TTL, MULTIPLIER, RECEIVE_INTERVAL, TRANSMIT_INTERVAL};
use super::{NAME, Section, field};

pub(super) static KUBERNETES: Section = Section {
    path: "kubernetes",
    about: "How the Kubernetes API is reached, and what is made of the cluster's Services. Nothing here is needed by VIPs that VRRP elects.",
    fields: &[
        field(
            "kubeconfig",
            Text { what: "a path", right: "a kubeconfig" },
            Words("the pod's ServiceAccount"),
            "Credentials and address of the API server. The file may appear later. A relative path starts at the configuration file.",
        ),
        field(
            "cluster",
            Text { what: "a name", right: NAME },
            Words("required with `services`"),
            "Id of the cluster, the same on all its nodes and different on each link: the identities of shards are made of it.",
        ),
        field(
            "services",
            Mapping(&SERVICES),
            Words("Services are left alone"),
            "Services of type LoadBalancer: their VIPs are owned in shards, announced and forwarded.",
        ),
    ],
};

static SERVICES: Section = Section {
    path: "kubernetes.services",
    about: "What is made of Services of type LoadBalancer. With it `vips` may be missing and `forwarding.nodes` too: nodes come from the cluster. `cluster`, `shards`, `announce`, `delivery`, `drain` and what selects nodes are the same on all nodes.",
    fields: &[
        field(
            "source",
            Word(&["api", "file"]),
            Value("api"),
            "Where Services, EndpointSlices and Nodes are read: from the API server, or from `intentFile`, which somebody else writes.",
        ),
        field(
            "classes",
            Texts { what: "a class", right: "a loadBalancerClass such as bascule.dev/vip" },
            Value("[bascule.dev/vip]"),
            "Values of `loadBalancerClass` that are ours; Services of other classes are never touched.",
        ),
        field("unclassed", Flag, Value("true"), "Services without a `loadBalancerClass` are ours."),
        field(
            "interface",
            Text { what: "a name", right: "a link name of 1 to 15 bytes without / and spaces, such as eth0" },
            Words("the link that carries this node's first InternalIP of the family that all nodes have"),
            "Link on which shards are elected and their VIPs announced.",
        ),
        field(
            "shards",
            Whole { min: 1, max: 255 },
            Value("16"),
            "Virtual routers over which the VIPs are spread by a hash of the address. Another number moves VIPs.",
        ),
        field(
            "announce",
            Word(&["l2", "bgp", "both"]),
            Value("l2"),
            "`l2`: one node owns a shard and answers ARP and NDP for it; `both`: it announces host routes as well; `bgp`: every node announces routes of every VIP that it can serve.",
        ),
        field(
            "delivery",
            Word(&["direct", "delegate", "none"]),
            Value("direct"),
            "Who rewrites the destination to a pod, as for `services`.",
        ),
        field("return", Word(&["direct", "viaIngress"]), Value("direct"), "The way of replies, as for `services`."),
        field(
            "whenUnplaced",
            Word(&["delegate", "direct"]),
            Value("delegate"),
            "With `delivery: direct` and `return: direct`, who takes new connections to pods of this node whose network namespace is not found within 3 s: `delegate`, the stack behind us (kube-proxy, Cilium); `direct`, our programs all the same, for clusters where nobody behind us knows the VIPs.",
        ),
        field(
            "drain",
            Time { min: 60_000, max: 86_400_000, step: 1_000 },
            Value("1h"),
            "How long those who held connections before a change are asked for them.",
        ),
        field(
            "bfd",
            Mapping(&CLUSTER_BFD),
            Words("no BFD: every node is taken to be up"),
            "BFD sessions with all other nodes of the cluster, by their first address: a node that dies is seen within a fraction of a second, and new connections go elsewhere. The same on all nodes: one without it takes no new connections from those with it after 10 s. Sessions of other sections with a node take the place of its own.",
        ),
        field(
            "nodeSelector",
            Texts { what: "a label", right: "KEY=VALUE" },
            Value("[]"),
            "Labels that a node must have to own VIPs.",
        ),
        field("requireReady", Flag, Value("false"), "Only nodes whose condition Ready is True may own VIPs."),
        field(
            "honourExclude",
            Flag,
            Value("true"),
            "Nodes with the label node.kubernetes.io/exclude-from-external-load-balancers own no VIPs.",
        ),
        field(
            "allocator",
            Flag,
            Value("true"),
            "This node may be the one that gives addresses to Services and ids to nodes; of all that may, a Lease chooses. Not with `source: file`.",
        ),
        field(
            "leaseNamespace",
            Text { what: "a name", right: NAME },
            Value("bascule-system"),
            "Namespace of that Lease, where the role of the shipped manifests allows it.",
        ),
        field(
            "report",
            Flag,
            Value("true"),
            "This node writes an object of kind VipStatus for each shard that it owns: who, since when, where. Nothing depends on it. Not with `source: file`.",
        ),
        field(
            "intentFile",
            Text { what: "a path", right: "a path" },
            Value("/var/lib/bascule/intent.json"),
            "The last good intent: with `source: api` written here and used by a start without an API server, with `source: file` read and watched.",
        ),
    ],
};

static CLUSTER_BFD: Section = Section {
    path: "kubernetes.services.bfd",
    about: "BFD (RFC 5880) between the nodes of the cluster; `bfd: {}` takes the defaults. Every node has a session with every other one: with more than 256 others there are none, and the log says so.",
    fields: &[
        TRANSMIT_INTERVAL,
        RECEIVE_INTERVAL,
        MULTIPLIER,
        field(
            "multihop",
            Whole { min: 1, max: 255 },
            Words("single hop: all nodes are on one link"),
            "Multihop sessions (RFC 5883) over at most this many hops, for nodes behind routers.",
        ),
        MINIMUM_TTL,
    ],
};
