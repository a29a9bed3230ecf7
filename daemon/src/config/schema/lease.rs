//! The part of the table that concerns leases: of one VIP, and the etcd that may hold them.

use super::Absent::{Required, Value, Words};
use super::Kind::{Text, Texts, Time};
use super::{Section, field};

pub(super) static LEASE: Section = Section {
    path: "vips[].lease",
    about: "The lease that elects, with `ownership: safe`. The defaults are kube-vip's, so that nodes with kube-vip and nodes with Bascule have one owner. All nodes need the same times. In etcd the key is `/bascule/lease/NAMESPACE/NAME`, and only `namespace` and `name` are used.",
    fields: &[
        field(
            "namespace",
            Text { what: "a name", right: "1 to 63 of a-z, 0-9 and -, no - at an end" },
            Value("kube-system"),
            "Namespace of the Lease.",
        ),
        field(
            "name",
            Text { what: "a name", right: "1 to 63 of a-z, 0-9 and -, no - at an end" },
            Value("plndr-cp-lock"),
            "Its name, for one VIP of a node only.",
        ),
        field(
            "duration",
            Time { min: 1_000, max: 3_600_000, step: 1_000 },
            Value("15s"),
            "How long a renewal counts for the others: after it a node that fell silent is followed.",
        ),
        field(
            "renewDeadline",
            Time { min: 100, max: 3_599_000, step: 1 },
            Value("10s"),
            "How long the owner goes on without a renewal; shorter than `duration`.",
        ),
        field(
            "retryPeriod",
            Time { min: 50, max: 1_790_000, step: 1 },
            Value("2s"),
            "Time between renewals; at most half of `renewDeadline`.",
        ),
    ],
};

pub(super) static ETCD: Section = Section {
    path: "etcd",
    about: "The etcd that holds the leases of VIPs with `elector: etcd` and of services with `mode: activePassive`. Files are read again when they change.",
    fields: &[
        field(
            "endpoints",
            Texts { what: "a URL", right: "https://HOST:PORT of a member" },
            Required,
            "Members, in the order in which they are tried.",
        ),
        field("caFile", Text { what: "a path", right: "a PEM file" }, Words("no TLS"), "The CAs of the members."),
        field(
            "certFile",
            Text { what: "a path", right: "a PEM file" },
            Words("no TLS"),
            "This node's certificate. With TLS all three files are needed.",
        ),
        field("keyFile", Text { what: "a path", right: "a PEM file" }, Words("no TLS"), "Its key."),
        field(
            "ttl",
            Time { min: 1_000, max: 3_600_000, step: 1_000 },
            Value("5s"),
            "TTL of each lease; renewed three times in it.",
        ),
    ],
};
