//! The custom resource `Site`. What it says is what the file says under `sites.NAME`, with maps where that has lists of names; the daemon judges
//! it by the same rules.

use bascule_core::service::MAX_NODE_ID;
use serde_json::{Value, json};

use super::{ADDRESS_MAX, CIDR_MAX, Definition, LABEL_MAX, column};

/// The highest number of a site, as in the configuration file: it stands in packets.
const ID_MAX: u8 = 63;
/// Relays of a site, and gateways, as in the configuration file.
const MEMBERS_MAX: u32 = 8;

/// The `CustomResourceDefinition` of `Site`.
pub(super) fn site() -> Value {
    let columns = vec![
        column("Id", "integer", ".spec.id", 0),
        column("Prefixes", "string", ".spec.prefixes", 0),
        column("Region", "string", ".spec.region", 1),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    Definition {
        kind: "Site",
        plural: "sites",
        short: "bsite",
        about: "A site that serves VIPs with others, this one among them, beside those of the configuration files, which win. The fields are those of `sites.NAME` there. May be the same in every cluster.",
        status_apart: false,
        columns,
        spec: Some(spec()),
        status: None,
    }
    .object()
}

fn members(description: &str, required: &[&str], properties: &Value) -> Value {
    json!({
        "description": description,
        "type": "object",
        "minProperties": 1,
        "maxProperties": MEMBERS_MAX,
        "additionalProperties": {"type": "object", "required": required, "properties": properties},
    })
}

fn spec() -> Value {
    let call = json!({"address": {
        "description": "Where other sites call it (TCP): an address with a port, such as 10.0.0.11:7845.",
        "type": "string",
        // Brackets, a colon and a port besides.
        "maxLength": ADDRESS_MAX + 8,
        "pattern": r"^(\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}$",
        "x-kubernetes-validations": [{
            "rule": "isIP(self.startsWith('[') ? self.substring(1, self.indexOf(']')) : self.substring(0, self.lastIndexOf(':')))",
            "message": "must be an IP address with a port",
        }],
    }});
    let gateway = json!({
        "id": {
            "description": "The number of the annotation bascule.dev/node-id of the Node there, which no node of any site shares: packets between sites name it.",
            "type": "integer",
            "format": "int32",
            "minimum": 1,
            "maximum": MAX_NODE_ID,
        },
        "address": {
            "description": "An own address that other sites reach, of one family everywhere.",
            "type": "string",
            "maxLength": ADDRESS_MAX,
            "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "must be an IP address"}],
        },
    });
    let mut gateways = members(
        "Nodes that send to other sites and are sent to, by their names. In every site they are counted by these, sorted.",
        &["id", "address"],
        &gateway,
    );
    gateways["x-kubernetes-validations"] = json!([{
        "rule": "self.all(a, self.exists_one(b, self[a].id == self[b].id))",
        "message": "two gateways have one id",
    }]);
    json!({
        "type": "object",
        "required": ["id", "relays", "gateways"],
        "properties": {
            "id": {"description": "Unique number. It stands in packets and certificates.", "type": "integer", "format": "int32",
                "minimum": 1, "maximum": ID_MAX},
            "region": {"description": "Sites of one region help one another first; without it that is the site's name.", "type": "string",
                "maxLength": LABEL_MAX, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"},
            "relays": members("Nodes that speak for the site, by the names in their certificates. Of those that live the first by name leads.", &["address"], &call),
            "gateways": gateways,
            "prefixes": {
                "description": "VIPs that the site may announce lie in these. What it claims beyond them is refused by all others.",
                "type": "array",
                "x-kubernetes-list-type": "set",
                "maxItems": 256,
                "items": {
                    "type": "string",
                    "maxLength": CIDR_MAX,
                    "x-kubernetes-validations": [{"rule": "isCIDR(self)", "message": "must be a prefix such as 192.0.2.0/24"}],
                },
            },
            "secretFile": {
                "description": "File with the secret of the pair of the reader's site and this one, on the node or in the pod, beside the configuration file: a relative path that does not leave its folder. Mount a Secret there. Nodes of this very site do not read it.",
                "type": "string",
                "minLength": 1,
                "maxLength": 255,
                "x-kubernetes-validations": [{
                    "rule": "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
                    "message": "must be a relative path without ..",
                }],
            },
        },
    })
}
