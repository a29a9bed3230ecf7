//! The custom resource `VipPool`. The rules go as far as CEL and the server's budget for it do; the allocator says the rest in a condition.

use serde_json::{Value, json};

use super::{ADDRESS_MAX, CIDR_MAX, Definition, LABEL_MAX, column, conditions, selector};

/// Blocks in a pool; the cost of comparing each with each other is bounded by it.
const BLOCKS_MAX: u32 = 32;

/// The `CustomResourceDefinition` of `VipPool`.
pub(super) fn vip_pool() -> Value {
    let columns = vec![
        column("Ready", "string", ".status.conditions[?(@.type==\"Ready\")].status", 0),
        column("Reason", "string", ".status.conditions[?(@.type==\"Ready\")].reason", 1),
        column("Used", "integer", ".status.used", 0),
        column("Free", "integer", ".status.free", 0),
        column("Priority", "integer", ".spec.priority", 0),
        column("Auto", "boolean", ".spec.autoAssign", 0),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    Definition {
        kind: "VipPool",
        plural: "vippools",
        short: "vp",
        about: "Addresses that Services of type LoadBalancer are given from.",
        status_apart: true,
        columns,
        spec: Some(spec()),
        status: Some(status()),
    }
    .object()
}

fn spec() -> Value {
    json!({
        "type": "object",
        "required": ["blocks"],
        "properties": {
            "blocks": {
                "description": "The parts of the pool, each with a name of its own, so that two writers do not overwrite each other's.",
                "type": "object",
                "minProperties": 1,
                "maxProperties": BLOCKS_MAX,
                "additionalProperties": block(),
                "x-kubernetes-validations": [{
                    // Each with itself and with no other. Names are not compared: they have no bound, and the server refuses what may cost much.
                    "rule": format!("self.all(a, self.exists_one(b, {}))", overlap("self[a]", "self[b]")),
                    "message": "two blocks have addresses in common",
                }],
            },
            "namespaces": {
                "description": "Namespaces that it serves, by name. With neither names nor a selector it serves all.",
                "type": "array",
                "x-kubernetes-list-type": "set",
                "maxItems": 256,
                "items": {"type": "string", "maxLength": LABEL_MAX},
            },
            "namespaceSelector": selector("Namespaces that it serves, by label."),
            "serviceSelector": selector("Services that it serves, by label; without it: all."),
            "priority": {
                "description": "Of the pools that serve a Service the one of the highest priority gives; of equals the one whose name sorts first.",
                "type": "integer",
                "format": "int32",
                "default": 0,
            },
            "autoAssign": {
                "description": "Serves Services that ask neither for it nor for an address of it.",
                "type": "boolean",
                "default": true,
            },
            "avoidEnds": {
                "description": "Network and broadcast address of IPv4 prefixes and the Subnet-Router anycast address of IPv6 prefixes are not given.",
                "type": "boolean",
                "default": true,
            },
        },
    })
}

fn block() -> Value {
    let address = |text: &str| {
        json!({"description": text, "type": "string", "maxLength": ADDRESS_MAX,
            "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "must be an IP address"}]})
    };
    json!({
        "description": "A prefix or a range.",
        "type": "object",
        "properties": {
            "cidr": {
                "description": "A prefix, such as 192.0.2.0/24.",
                "type": "string",
                "maxLength": CIDR_MAX,
                "x-kubernetes-validations": [{"rule": "isCIDR(self)", "message": "must be a prefix such as 192.0.2.0/24"}],
            },
            "range": {
                "description": "From the first to the last address, both included.",
                "type": "object",
                "required": ["first", "last"],
                "properties": {"first": address("The first address."), "last": address("The last address.")},
                "x-kubernetes-validations": [
                    {
                        "rule": "!isIP(self.first) || !isIP(self.last) || ip(self.first).family() == ip(self.last).family()",
                        "message": "first and last must be of one family",
                    },
                    {
                        "rule": format!("!{} || !{} || {} <= {}", v4("self.first"), v4("self.last"), number("self.first"), number("self.last")),
                        "message": "first must not come after last",
                    },
                ],
            },
        },
        "x-kubernetes-validations": [{
            "rule": "has(self.cidr) != has(self.range)",
            "message": "exactly one of cidr and range must be there",
        }],
    })
}

/// CEL: is this text an IPv4 address?
fn v4(text: &str) -> String {
    format!("(isIP({text}) && ip({text}).family() == 4)")
}

/// CEL: an IPv4 address as a number.
fn number(text: &str) -> String {
    let part = |at: usize, shift: u32| format!("int({text}.split('.')[{at}])*{}", 1_u32 << shift);
    format!("({}+{}+{}+{})", part(0, 24), part(1, 16), part(2, 8), part(3, 0))
}

/// CEL: have two blocks an address in common? As far as the server's budget for rules goes: two ranges, and a range around a prefix, are
/// compared by the allocator. What is no address at all is refused by other rules.
fn overlap(a: &str, b: &str) -> String {
    let mixed = |net: &str, span: &str| {
        let end = |end: &str| format!("isIP({span}.range.{end}) && cidr({net}.cidr).containsIP({span}.range.{end})");
        format!("has({net}.cidr) && has({span}.range) && isCIDR({net}.cidr) && ({} || {})", end("first"), end("last"))
    };
    format!(
        "has({a}.cidr) && has({b}.cidr) ? {a}.cidr == {b}.cidr || isCIDR({a}.cidr) && isCIDR({b}.cidr) && \
         (cidr({a}.cidr).containsCIDR({b}.cidr) || cidr({b}.cidr).containsCIDR({a}.cidr)) : \
         has({a}.range) && has({b}.range) ? {a}.range.first == {b}.range.first && {a}.range.last == {b}.range.last : \
         ({}) || ({})",
        mixed(a, b),
        mixed(b, a),
    )
}

fn status() -> Value {
    json!({
        "description": "Written by the allocator.",
        "type": "object",
        "properties": {
            "used": {"description": "Addresses that Services hold.", "type": "integer", "format": "int64"},
            "free": {"description": "Addresses that are free; the largest number there is when there are more.", "type": "integer", "format": "int64"},
            "conditions": conditions(),
        },
    })
}
