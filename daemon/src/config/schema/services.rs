//! The part of the table that concerns services.

use super::Absent::{Required, Value, Words};
use super::Kind::{Flag, Section as Mapping, Sections, Text, Texts, Time, Whole, Word};
use super::sites::SPREAD;
use super::{ADDRESS, NAME, NODE, Section, field};

const PATH: &str = "a path that starts with /";
const STATUS: &str = "a status or a range within 100-599, such as 200-399";

pub(super) static SERVICE: Section = Section {
    path: "services[]",
    about: "A service: a VIP, a port and a protocol, and the endpoints that its connections are spread over. The same on all nodes. Needs `forwarding`.",
    fields: &[
        field("name", Text { what: "a name", right: NAME }, Required, "Unique name."),
        field(
            "number",
            Whole { min: 1, max: 65535 },
            Words("made of the name"),
            "Number in the encapsulation, the same on all nodes.",
        ),
        field(
            "vip",
            Text { what: "an address", right: ADDRESS },
            Required,
            "The VIP: an address of `vips`, or one that somebody else announces.",
        ),
        field("port", Whole { min: 1, max: 65535 }, Required, "Port of the VIP."),
        field(
            "protocol",
            Word(&["tcp", "udp", "sctp"]),
            Value("tcp"),
            "Transport protocol; `sctp` with `delivery: delegate` or `none` only.",
        ),
        field(
            "delivery",
            Word(&["direct", "delegate", "none"]),
            Value("direct"),
            "Who rewrites the destination to an endpoint: this daemon's programs, or (`delegate`) what stands behind them on the endpoint's node, such as kube-proxy or Cilium. `none`: the VIP is only announced.",
        ),
        field(
            "return",
            Word(&["direct", "viaIngress"]),
            Value("direct"),
            "The way of replies: from the endpoint's node to the client, or through the node on which the request arrived.",
        ),
        field(
            "affinity",
            Word(&["none", "clientIp"]),
            Value("none"),
            "`clientIp`: all connections of a client go to one endpoint while it is ready.",
        ),
        field(
            "sources",
            Texts { what: "a network", right: "a network such as 192.0.2.0/24 or 2001:db8::/32" },
            Value("[]"),
            "Networks that may connect; packets from others are dropped. Empty: all.",
        ),
        field(
            "drainTime",
            Time { min: 60_000, max: 86_400_000, step: 1_000 },
            Words("1h; 5m for `udp`"),
            "How long those who held connections before a change are asked for them. A row of the table whose home moved twice in this time does not move a third time for the sake of balance.",
        ),
        field(
            "stateful",
            Flag,
            Words("true"),
            "Only `udp`: packets of a flow must stay with their endpoint over changes of the table. `false`, for a question and an answer such as DNS, saves asking.",
        ),
        field(
            "quic",
            Flag,
            Value("false"),
            "Only `udp`: QUIC (RFC 9000); packets that open connections are told apart from others.",
        ),
        field(
            "whenAllFail",
            Word(&["keep", "refuse"]),
            Value("keep"),
            "New connections while no endpoint is ready: to those that were ready last, or to none.",
        ),
        field(
            "draining",
            Flag,
            Value("false"),
            "Takes no new connections; running ones stay. With `sites` new ones go to the other sites, which hear of it: what they send until they have, and what no other site takes, is served.",
        ),
        field(
            "check",
            Mapping(&CHECK),
            Words("endpoints are always ready"),
            "How the health of endpoints is found out.",
        ),
        field("sites", Mapping(&SPREAD), Words("one site"), "How several sites share it. Needs `site`."),
        field("endpoints", Sections(&ENDPOINT), Words("required unless `delivery: none`"), "1 to 1024 endpoints."),
    ],
};

static ENDPOINT: Section = Section {
    path: "services[].endpoints[]",
    about: "An endpoint: a process on a node, a pod, or an address behind a router.",
    fields: &[
        field(
            "name",
            Text { what: "a name", right: NAME },
            Words("ADDRESS-PORT with - for . and :"),
            "Unique name in the service. Tables are computed from it: who keeps it keeps the place.",
        ),
        field("address", Text { what: "an address", right: ADDRESS }, Required, "Address, of the family of the VIP."),
        field("port", Whole { min: 1, max: 65535 }, Words("the port of the service"), "Port."),
        field(
            "node",
            Text { what: "a name", right: NODE },
            Words("behind a router: any node may serve it, and its replies must come back through that node"),
            "The node that it runs on, a name of `forwarding.nodes`.",
        ),
        field(
            "weight",
            Whole { min: 0, max: 1000 },
            Value("1"),
            "Share of new connections, relative to the others; 0: none.",
        ),
        field("draining", Flag, Value("false"), "Takes no new connections; running ones stay."),
    ],
};

static CHECK: Section = Section {
    path: "services[].check",
    about: "A check of each endpoint, by every node. Exactly one of `tcp`, `http`, `https` and `grpc`. An endpoint whose health changes more than twice within two minutes must wait longer each time, up to a minute, before it is used again.",
    fields: &[
        field(
            "tcp",
            Mapping(&TCP),
            Words("-"),
            "Ready when a TCP connection is accepted; `tcp: {}` takes the defaults.",
        ),
        field("http", Mapping(&HTTP), Words("-"), "Ready when a GET is answered with an expected status."),
        field("https", Mapping(&HTTPS), Words("-"), "The same over TLS."),
        field("grpc", Mapping(&GRPC), Words("-"), "Ready when `grpc.health.v1.Health/Check` answers SERVING."),
        field(
            "interval",
            Time { min: 100, max: 3_600_000, step: 1 },
            Value("1s"),
            "From the start of one probe to the start of the next.",
        ),
        field(
            "timeout",
            Time { min: 10, max: 3_600_000, step: 1 },
            Value("500ms"),
            "A probe without an answer by then has failed. At most the interval; when not given, never more than it.",
        ),
        field("rise", Whole { min: 1, max: 100 }, Value("2"), "Successes in a row that make an endpoint ready."),
        field("fall", Whole { min: 1, max: 100 }, Value("3"), "Failures in a row that make it unready."),
    ],
};

/// The port of a check.
macro_rules! port {
    () => {
        field(
            "port",
            Whole { min: 1, max: 65535 },
            Words("the endpoint's; required for `udp` and `sctp`"),
            "Port that is asked.",
        )
    };
}

static TCP: Section = Section { path: "services[].check.tcp", about: "TCP probe.", fields: &[port!()] };

static HTTP: Section = Section {
    path: "services[].check.http",
    about: "HTTP probe; redirects are answers, not followed.",
    fields: &[
        port!(),
        field("path", Text { what: "a path", right: PATH }, Value("/"), "What to GET."),
        field(
            "expect",
            Text { what: "a status range", right: STATUS },
            Value("200-399"),
            "Statuses that count as healthy, both ends included.",
        ),
    ],
};

static HTTPS: Section = Section {
    path: "services[].check.https",
    about: "HTTPS probe. Exactly one of `caFile` and `insecureSkipVerify`.",
    fields: &[
        port!(),
        field("path", Text { what: "a path", right: PATH }, Value("/"), "What to GET."),
        field(
            "expect",
            Text { what: "a status range", right: STATUS },
            Value("200-399"),
            "Statuses that count as healthy, both ends included.",
        ),
        field(
            "caFile",
            Text { what: "a path", right: "a file with certificates in PEM" },
            Words("-"),
            "Authorities of which one must have signed the certificate. A relative path starts at the configuration file.",
        ),
        field(
            "serverName",
            Text { what: "a name", right: "a DNS name or an IP address" },
            Words("the endpoint's address"),
            "Name that the certificate must have; with `caFile` only.",
        ),
        field("insecureSkipVerify", Flag, Value("false"), "Accept any certificate."),
    ],
};

static GRPC: Section = Section {
    path: "services[].check.grpc",
    about: "gRPC probe, over HTTP/2 without TLS.",
    fields: &[
        port!(),
        field(
            "service",
            Text { what: "a name", right: "a name of a gRPC service, such as shop.v1.Cart" },
            Words("the server as a whole"),
            "Service that is asked for.",
        ),
    ],
};
