//! The custom resource `L2Announcement`.

use bascule_core::intent::rules::{RULE_SHARDS, RULE_SHARDS_MAX};
use bascule_core::types::LINK_NAME_MAX;
use serde_json::{Value, json};

use super::{Definition, column, selection, selector};

/// Links that are tried; a fleet has a few names for the same place.
const INTERFACES_MAX: u32 = 16;

/// The `CustomResourceDefinition` of `L2Announcement`.
pub(super) fn l2_announcement() -> Value {
    let columns = vec![
        column("Pools", "string", ".spec.pools", 0),
        column("Interfaces", "string", ".spec.interfaces", 0),
        column("Shards", "integer", ".spec.shards", 1),
        column("Namespaces", "string", ".spec.namespaces", 1),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    Definition {
        kind: "L2Announcement",
        plural: "l2announcements",
        short: "l2a",
        about: "VIPs that are answered for by ARP and NDP. With the first of them only what one of them selects is announced; of several that select a VIP the first by name holds.",
        status_apart: false,
        columns,
        spec: Some(spec()),
        status: None,
    }
    .object()
}

fn spec() -> Value {
    let mut properties = selection();
    properties["nodeSelector"] =
        selector("Nodes that may own them, besides what the configuration file asks; without it: all.");
    properties["interfaces"] = json!({
        "description": "The link on which they are announced: the first of these that a node has; without any: that of the configuration file.",
        "type": "array",
        "x-kubernetes-list-type": "set",
        "maxItems": INTERFACES_MAX,
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": LINK_NAME_MAX,
            "pattern": "^[^/:\\s]+$",
            "x-kubernetes-validations": [{"rule": "self != '.' && self != '..'", "message": "must be the name of a link"}],
        },
    });
    properties["shards"] = json!({
        "description": "With a nodeSelector or interfaces: over how many virtual routers they are spread. Another number moves VIPs.",
        "type": "integer",
        "format": "int32",
        "minimum": 1,
        "maximum": RULE_SHARDS_MAX,
        "default": RULE_SHARDS,
    });
    json!({"type": "object", "properties": properties})
}
