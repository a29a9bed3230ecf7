//! The custom resource `SiteTrafficPolicy`.

use bascule_core::intent::rules::{CAPACITY_MAX, NO_PASSIVE, WEIGHT_MAX};
use serde_json::{Value, json};

use super::{Definition, NAME_MAX, column, names, selection};

/// Sites that know one another, as in the configuration file.
const SITES_MAX: u32 = 16;

/// The `CustomResourceDefinition` of `SiteTrafficPolicy`.
pub(super) fn site_traffic_policy() -> Value {
    let columns = vec![
        column("Mode", "string", ".spec.mode", 0),
        column("Sites", "string", ".spec.sites", 0),
        column("Namespaces", "string", ".spec.namespaces", 1),
        column("Names", "string", ".spec.names", 1),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    Definition {
        kind: "SiteTrafficPolicy",
        plural: "sitetrafficpolicies",
        short: "sitetp",
        about: "Services that several sites serve, and how new connections are spread over these. Of several that select a VIP the first by name holds. May be the same in every cluster.",
        status_apart: false,
        columns,
        spec: Some(spec()),
        status: None,
    }
    .object()
}

fn part() -> Value {
    let capacity = |description: &str| json!({"description": description, "type": "integer", "format": "int32", "minimum": 1, "maximum": CAPACITY_MAX});
    json!({
        "type": "object",
        "properties": {
            "weight": {"description": "With mode weighted: its share of new connections, relative to the others.", "type": "integer",
                "format": "int32", "minimum": 0, "maximum": WEIGHT_MAX},
            "capacity": capacity("New connections a second that it carries with all endpoints ready. Read by its own nodes."),
            "capacityPerEndpoint": capacity("The same, of each endpoint that is ready; instead of capacity."),
            "draining": {"description": "New connections go to the other sites, as long as one serves; it keeps those it has. Read by its own nodes; the other sites hear of it.", "type": "boolean"},
        },
        "x-kubernetes-validations": [{
            "rule": "!has(self.capacity) || !has(self.capacityPerEndpoint)",
            "message": "capacity and capacityPerEndpoint exclude one another",
        }],
    })
}

fn spec() -> Value {
    let mut properties = selection();
    properties["names"] = names("VIPs of Services with these names; without any: all.", NAME_MAX);
    properties["mode"] = json!({
        "description": "localFirst: here as long as this site can, elsewhere what it cannot serve; weighted: by the weights of sites, wherever the client is.",
        "type": "string",
        "enum": ["localFirst", "weighted", "activePassive"],
        "default": "localFirst",
        "x-kubernetes-validations": [{"rule": "self != 'activePassive'", "message": NO_PASSIVE}],
    });
    properties["sites"] = json!({
        "description": "What is said of each site, by its name, so that two writers do not overwrite each other's. With weights a site that is not named gets nothing while another can serve.",
        "type": "object",
        "maxProperties": SITES_MAX,
        "additionalProperties": part(),
    });
    properties["number"] = json!({
        "description": "The number by which all sites know the one port of the one VIP that is selected, where clusters do not agree on the namespace and name of the Service. Without it that which is made of these, the VIP, port and protocol.",
        "type": "integer",
        "format": "int32",
        "minimum": 1,
        "maximum": u16::MAX,
    });
    json!({
        "type": "object",
        "properties": properties,
        "x-kubernetes-validations": [
            {
                "rule": "self.mode != 'weighted' || has(self.sites) && self.sites.all(s, has(self.sites[s].weight))",
                "message": "with mode weighted every site of sites needs a weight",
            },
            {
                "rule": "self.mode != 'weighted' || !has(self.sites) || self.sites.exists(s, has(self.sites[s].weight) && self.sites[s].weight > 0)",
                "message": "no site has a weight above 0",
            },
            {
                "rule": "self.mode == 'weighted' || !has(self.sites) || self.sites.all(s, !has(self.sites[s].weight))",
                "message": "weights need mode weighted",
            },
        ],
    })
}
