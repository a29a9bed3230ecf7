//! The part of the table that concerns sites.

use super::Absent::{Required, Value, Words};
use super::Kind::{Flag, Named, Sections, Text, Texts, Whole, Word};
use super::{ADDRESS, NAME, NODE, Section, field};

const SOCKET: &str = "an address with a port, such as 10.0.0.11:7845";

pub(super) static SITE: Section = Section {
    path: "site",
    about: "This site, and this node's part in what sites tell one another ([sites.md](../sites.md)). Needs `forwarding`, and `sites` or, with `kubernetes.services`, Sites of the cluster. A change takes effect with the next start.",
    fields: &[
        field("name", Text { what: "a name", right: NAME }, Required, "Which of `sites` this one is."),
        field(
            "domain",
            Text { what: "a name", right: "the domain of `bascule pki init`, such as sites.example" },
            Required,
            "Domain of the certificates. Those of another one are refused.",
        ),
        field(
            "certificates",
            Text { what: "a path", right: "a directory with relay.pem, relay.key and trust.pem" },
            Required,
            "What `bascule pki issue` made for this node. Every node of a site needs it: relays show it to other sites, other nodes to the relays of their own. Read again when it changes. A relative path starts at the configuration file.",
        ),
        field(
            "relay",
            Text { what: "a name", right: NODE },
            Words("this node is no relay, and listens to those of its site"),
            "This node is the relay of this name, which its certificate must have.",
        ),
        field(
            "listen",
            Text { what: "an address", right: SOCKET },
            Words("the address of the relay under `sites`"),
            "Where the relay takes calls of other sites, if that is not where they call.",
        ),
        field(
            "incarnation",
            Text { what: "a path", right: "a file in a directory that is there" },
            Value("/var/lib/bascule/incarnation"),
            "File in which a relay counts its starts. Lost, it does no harm; a relay that cannot write it exports nothing.",
        ),
        field(
            "terms",
            Text { what: "a path", right: "a directory" },
            Value("/var/lib/bascule/terms"),
            "Directory in which a file for each `activePassive` service says whether this site has it, by which term, and until when.",
        ),
        field(
            "clock",
            Text { what: "a path", right: "a file in a directory that is there" },
            Value("/var/lib/bascule/clock"),
            "File in which this node keeps the last time at which it believed a certificate: none is held against an earlier one, whatever the wall clock says. Lost, or not writable, it does no harm while the wall clock is right.",
        ),
        field(
            "nodesPort",
            Whole { min: 1, max: 65535 },
            Value("7849"),
            "TCP port on which relays tell the nodes of their site what they know, the same on all nodes of a site.",
        ),
        field(
            "pathPort",
            Whole { min: 1, max: 65534 },
            Value("7847"),
            "First of two UDP ports of the probes between nodes, the same in all sites.",
        ),
        field(
            "quietProbes",
            Flag,
            Value("false"),
            "Probes of a path rest while handshakes of this node's clients speak for it: one a second instead of ten a second and flow. Both sites must say so, and bring 200 connections a second to services with `return: viaIngress`. A path that is cut then is down 0.2 s later than by probes; who can forge handshakes at both sites hides a cut for 2.5 s ([sites.md](../sites.md)). Counts at once.",
        ),
    ],
};

pub(in crate::config) static SITES: Section = Section {
    path: "sites.NAME",
    about: "A site, by its name; this one among them. All but `secretFile` is the same in all sites. With `kubernetes.services` any of them may be a Site of the cluster instead ([kubernetes.md](../kubernetes.md)); one that is here wins over a Site of its name.",
    fields: &[
        field("id", Whole { min: 1, max: 63 }, Required, "Unique number. It stands in packets and certificates."),
        field(
            "region",
            Text { what: "a name", right: NAME },
            Words("the name of the site"),
            "Sites of one region help one another first.",
        ),
        field("relays", Sections(&RELAYS), Required, "1 to 8 relays: nodes that speak for the site, one at a time."),
        field(
            "gateways",
            Sections(&GATEWAYS),
            Required,
            "1 to 8 nodes that send to other sites and are sent to. They probe one another.",
        ),
        field(
            "prefixes",
            Texts { what: "a network", right: "a network such as 192.0.2.0/24 or 2001:db8::/32" },
            Value("[]"),
            "VIPs that the site may announce lie in these. What it claims beyond them is refused by all others.",
        ),
        field(
            "secretFile",
            Text { what: "a path", right: "a file only its owner reads, with 1 or 2 lines of 32 to 128 hex digits" },
            Words("required for every site but this one"),
            "Secret of the pair of this site and that one, for probes, the same at both ends. The first line signs, both verify. A relative path starts at the configuration file.",
        ),
    ],
};

static RELAYS: Section = Section {
    path: "sites.NAME.relays[]",
    about: "A relay. Of those that live, the first by name leads.",
    fields: &[
        field("name", Text { what: "a name", right: NODE }, Required, "Name in its certificate."),
        field("address", Text { what: "an address", right: SOCKET }, Required, "Where other sites call it (TCP)."),
    ],
};

static GATEWAYS: Section = Section {
    path: "sites.NAME.gateways[]",
    about: "A node of the site that balances services of several sites. Their order is the same in all sites.",
    fields: &[
        field("name", Text { what: "a name", right: NODE }, Required, "Its `node`."),
        field(
            "id",
            Whole { min: 1, max: 4095 },
            Required,
            "Its id in `forwarding.nodes` there, or, of a node of a cluster, that of its annotation `bascule.dev/node-id`. No node of any site may have the same: packets between sites name them.",
        ),
        field(
            "address",
            Text { what: "an address", right: ADDRESS },
            Required,
            "An own address that other sites reach, of one family everywhere.",
        ),
    ],
};

pub(super) static SPREAD: Section = Section {
    path: "services[].sites",
    about: "The service is one of several sites, under the same `number` in each: how new connections are spread over them. Without it all stay here.",
    fields: &[
        field(
            "mode",
            Word(&["localFirst", "weighted", "activePassive"]),
            Value("localFirst"),
            "`localFirst`: here as long as this site can, elsewhere what it cannot serve; `weighted`: by `each`, wherever the client is; `activePassive`: at the one site that has the service's lease, by `order`. Needs `etcd` with a member in a third place, `delivery: direct`, and endpoints on nodes, with addresses of their own ([sites.md](../sites.md)).",
        ),
        field(
            "order",
            Texts { what: "a name", right: "2 or 3 names of sites" },
            Words("required by `activePassive`, which alone takes it"),
            "The best first: who asks for the lease when nobody has it. A site that is not named sends to the one that has it, and never has it.",
        ),
        field(
            "failback",
            Word(&["manual", "auto"]),
            Value("manual"),
            "What an `activePassive` service does when a better site of `order` is well again: `manual`: it stays until the one that has it is drained or fails; `auto`: it goes back after five minutes of health, with an interruption.",
        ),
        field(
            "each",
            Named(&EACH),
            Words("required by `weighted`, which alone takes it"),
            "What a site gets, by its name. A site that is not named gets nothing while another one can serve.",
        ),
        field(
            "capacity",
            Whole { min: 1, max: 1_000_000_000 },
            Words("not known"),
            "New connections a second that this site carries with all endpoints ready, of UDP datagrams a second. What clients bring beyond 0.95 of it goes where room is lent (`localFirst`); what another site cannot serve is split by it.",
        ),
        field(
            "capacityPerEndpoint",
            Whole { min: 1, max: 1_000_000_000 },
            Words("not known"),
            "The same, of each endpoint that is ready; instead of `capacity`.",
        ),
    ],
};

static EACH: Section = Section {
    path: "services[].sites.each.NAME",
    about: "A site's part of a service.",
    fields: &[field(
        "weight",
        Whole { min: 0, max: 1000 },
        Required,
        "Share of new connections, relative to the other sites.",
    )],
};
