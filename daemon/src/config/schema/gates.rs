//! The part of the table that concerns gates.

use super::Absent::{Required, Value, Words};
use super::Kind::{Flag, Section as Mapping, Text, Time, Whole};
use super::{NAME, Section, field};

pub(super) static GATE: Section = Section {
    path: "gates[]",
    about: "A health gate. While a gate of a VIP is closed, the node stands in the sick band of the election (priority 1 to 99). Exactly one of `tcp`, `http`, `https` and `grpc`.",
    fields: &[
        field("name", Text { what: "a name", right: NAME }, Required, "Unique name."),
        field("tcp", Mapping(&TCP), Words("-"), "Healthy when a TCP connection is accepted."),
        field("http", Mapping(&HTTP), Words("-"), "Healthy when a GET is answered with an expected status."),
        field("https", Mapping(&HTTPS), Words("-"), "The same over TLS."),
        field("grpc", Mapping(&GRPC), Words("-"), "Healthy when `grpc.health.v1.Health/Check` answers SERVING."),
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
        field("rise", Whole { min: 1, max: 100 }, Value("2"), "Successes in a row that open the gate."),
        field("fall", Whole { min: 1, max: 100 }, Value("3"), "Failures in a row that close it."),
    ],
};

static TCP: Section = Section {
    path: "gates[].tcp",
    about: "TCP probe.",
    fields: &[field(
        "address",
        Text { what: "an address", right: "an address with a port, such as 127.0.0.1:6443" },
        Required,
        "Where to connect.",
    )],
};

static HTTP: Section = Section {
    path: "gates[].http",
    about: "HTTP probe; redirects are answers, not followed.",
    fields: &[
        field("url", Text { what: "a URL", right: "http://HOST[:PORT]/PATH" }, Required, "What to GET."),
        field(
            "expect",
            Text { what: "a status range", right: "a status or a range within 100-599, such as 200-399" },
            Value("200-399"),
            "Statuses that count as healthy, both ends included.",
        ),
    ],
};

static HTTPS: Section = Section {
    path: "gates[].https",
    about: "HTTPS probe; redirects are answers, not followed. Exactly one of `caFile` and `insecureSkipVerify`.",
    fields: &[
        field("url", Text { what: "a URL", right: "https://HOST[:PORT]/PATH" }, Required, "What to GET."),
        field(
            "expect",
            Text { what: "a status range", right: "a status or a range within 100-599, such as 200-399" },
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
            Words("the host of the URL"),
            "Name that the certificate must have; with `caFile` only.",
        ),
        field("insecureSkipVerify", Flag, Value("false"), "Accept any certificate."),
        field(
            "certFile",
            Text { what: "a path", right: "a PEM file" },
            Words("no certificate"),
            "Certificate that is shown to a server that demands one, with `keyFile`. Read at each probe; it may appear later.",
        ),
        field("keyFile", Text { what: "a path", right: "a PEM file" }, Words("no certificate"), "Its private key."),
    ],
};

static GRPC: Section = Section {
    path: "gates[].grpc",
    about: "gRPC probe, over HTTP/2 without TLS.",
    fields: &[
        field(
            "address",
            Text { what: "an address", right: "an address with a port, such as 127.0.0.1:6443" },
            Required,
            "Where to ask.",
        ),
        field(
            "service",
            Text { what: "a name", right: "a name of a gRPC service, such as shop.v1.Cart" },
            Words("the server as a whole"),
            "Service that is asked for.",
        ),
    ],
};
