//! Our custom resources, as the API server is told of them.
//!
//! Hand-made and not derived: the schema is the contract, and what it refuses needs CEL, which no type says.

mod bgp;
mod l2_announcement;
mod pool;
mod site;
mod traffic;
mod vip_status;

use serde_json::{Value, json};

use bgp::{bgp_announcement, bgp_peer};
use l2_announcement::l2_announcement;
use pool::vip_pool;
use site::site;
use traffic::site_traffic_policy;
use vip_status::vip_status;

/// Group of our resources.
pub const GROUP: &str = "bascule.dev";
/// The longest address in text (RFC 4291 2.2, with an embedded IPv4 address).
const ADDRESS_MAX: u32 = 45;
/// The longest prefix in text: the longest address, a slash and three digits.
const CIDR_MAX: u32 = ADDRESS_MAX + 4;
/// Of a name of an object (RFC 1123 subdomain).
const NAME_MAX: u32 = 253;
/// Of a name of a namespace (RFC 1123 label).
const LABEL_MAX: u32 = 63;

/// Every definition, by the plural of its kind, which is the name of its file under deploy/crds as well.
pub fn definitions() -> [(&'static str, Value); 7] {
    [
        ("bgpannouncements", bgp_announcement()),
        ("bgppeers", bgp_peer()),
        ("l2announcements", l2_announcement()),
        ("sites", site()),
        ("sitetrafficpolicies", site_traffic_policy()),
        ("vippools", vip_pool()),
        ("vipstatuses", vip_status()),
    ]
}

/// What differs between our kinds; all of them are of the cluster and have one version.
struct Definition {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    about: &'static str,
    /// Who may write the object may not write its status by that, and the other way round.
    status_apart: bool,
    columns: Vec<Value>,
    /// `None`: nobody asks for anything by it.
    spec: Option<Value>,
    /// `None`: nothing is said in it.
    status: Option<Value>,
}

impl Definition {
    fn object(self) -> Value {
        let Self { kind, plural, short, about, status_apart, columns, spec, status } = self;
        let mut properties = json!({
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
        });
        let mut schema = json!({"description": about, "type": "object"});
        if let Some(spec) = spec {
            properties["spec"] = spec;
            schema["required"] = json!(["spec"]);
        }
        if let Some(status) = status {
            properties["status"] = status;
        }
        schema["properties"] = properties;
        let mut version = json!({"name": "v1alpha1", "served": true, "storage": true});
        if status_apart {
            version["subresources"] = json!({"status": {}});
        }
        version["additionalPrinterColumns"] = json!(columns);
        version["schema"] = json!({"openAPIV3Schema": schema});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{GROUP}")},
            "spec": {
                "group": GROUP,
                "scope": "Cluster",
                "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": kind.to_lowercase(),
                    "shortNames": [short], "categories": ["bascule"]},
                "versions": [version],
            },
        })
    }
}

fn column(name: &str, kind: &str, path: &str, priority: u8) -> Value {
    json!({"name": name, "type": kind, "jsonPath": path, "priority": priority})
}

/// Names of things, each once.
fn names(description: &str, max: u32) -> Value {
    json!({
        "description": description,
        "type": "array",
        "x-kubernetes-list-type": "set",
        "maxItems": 256,
        "items": {"type": "string", "minLength": 1, "maxLength": max},
    })
}

/// Which VIPs an announcement or a policy means.
fn selection() -> Value {
    json!({
        "pools": names("VIPs out of these VipPools, whoever gave them; without any: all.", NAME_MAX),
        "namespaces": names("VIPs of Services in these namespaces; without any: all.", LABEL_MAX),
        "serviceSelector": selector("VIPs of Services with these labels; without it: all."),
    })
}

fn text(max: u32) -> Value {
    json!({"type": "string", "maxLength": max})
}

/// `LabelSelector` of apimachinery.
fn selector(description: &str) -> Value {
    json!({
        "description": description,
        "type": "object",
        "properties": {
            "matchLabels": {"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": LABEL_MAX}},
            "matchExpressions": {
                "type": "array",
                "maxItems": 64,
                "x-kubernetes-list-type": "atomic",
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string", "minLength": 1, "maxLength": 317},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {
                            "type": "array",
                            "maxItems": 64,
                            "x-kubernetes-list-type": "atomic",
                            "items": {"type": "string", "maxLength": LABEL_MAX},
                        },
                    },
                    "x-kubernetes-validations": [{
                        "rule": "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
                        "message": "values belong to In and NotIn, and to nothing else",
                    }],
                },
            },
        },
    })
}

/// `Condition` of apimachinery, one of each type.
fn conditions() -> Value {
    json!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": text(316),
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": text(1024),
                "message": text(32_768),
                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
            },
        },
    })
}
