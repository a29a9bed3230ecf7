//! The custom resource `VipStatus`: a report, which nobody needs for anything but reading.

use serde_json::{Value, json};

use super::{ADDRESS_MAX, Definition, column, text};
use crate::report::{ADDRESSES_SHOWN, NODES_SHOWN};

/// The `CustomResourceDefinition` of `VipStatus`. Its status is no subresource: one request makes an object that says something.
pub(super) fn vip_status() -> Value {
    let columns = vec![
        column("Node", "string", ".status.node", 0),
        column("Reason", "string", ".status.reason", 0),
        column("VIPs", "integer", ".status.vipCount", 0),
        column("Announce", "string", ".status.announce", 0),
        column("Since", "date", ".status.since", 0),
        column("Message", "string", ".status.message", 1),
        column("Addresses", "string", ".status.vips", 1),
    ];
    Definition {
        kind: "VipStatus",
        plural: "vipstatuses",
        short: "vst",
        about: "Who holds the VIPs of a shard, as the holder itself says. Whether they are held does not depend on it.",
        status_apart: false,
        columns,
        spec: None,
        status: Some(status()),
    }
    .object()
}

fn status() -> Value {
    json!({
        "description": "Written by the node that holds the shard.",
        "type": "object",
        "required": ["reason", "since", "vipCount", "vips"],
        "properties": {
            "node": {"description": "Who holds it; not there when nobody does, or every node.", "type": "string", "minLength": 1, "maxLength": 253},
            "reason": {"description": "Held: one node owns. EveryNode: all that may own announce routes. Nobody: the message says why.",
                "type": "string", "enum": ["Held", "EveryNode", "Nobody"]},
            "message": text(1024),
            "since": {"description": "Since when, by the clock of who wrote it.", "type": "string", "format": "date-time"},
            "announce": {
                "description": "How the network learns where they are: L2 (ARP and NDP), BGP.",
                "type": "array",
                "x-kubernetes-list-type": "set",
                "maxItems": 2,
                "items": {"type": "string", "enum": ["L2", "BGP"]},
            },
            "vipCount": {"description": "How many VIPs the shard has.", "type": "integer", "format": "int32", "minimum": 0},
            "vips": {
                "description": format!("The first {ADDRESSES_SHOWN} of them."),
                "type": "array",
                "x-kubernetes-list-type": "atomic",
                "maxItems": ADDRESSES_SHOWN,
                "items": {"type": "string", "maxLength": ADDRESS_MAX,
                    "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "must be an IP address"}]},
            },
            "ineligible": {
                "description": format!("Nodes that may not own now, the first {NODES_SHOWN}, and why."),
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["node"],
                "maxItems": NODES_SHOWN,
                "items": {
                    "type": "object",
                    "required": ["node", "reasons"],
                    "properties": {
                        "node": text(253),
                        "reasons": {"type": "array", "x-kubernetes-list-type": "atomic", "minItems": 1, "maxItems": 16, "items": text(512)},
                    },
                },
            },
        },
        "x-kubernetes-validations": [
            {"rule": "has(self.node) == (self.reason == 'Held')", "message": "node belongs to reason Held, and to nothing else"},
            {"rule": "self.vipCount >= size(self.vips)", "message": "vipCount is less than there are vips"},
        ],
    })
}
