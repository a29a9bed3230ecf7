//! The custom resources `BgpPeer` and `BgpAnnouncement`. What they say of a session and of routes are the words of a neighbor in the
//! configuration file, with its defaults; the daemon judges them by the same rules.

use serde_json::{Value, json};

use super::{ADDRESS_MAX, Definition, LABEL_MAX, column, selection, selector};

/// Of each list of communities, as in the configuration file.
const COMMUNITIES_MAX: u32 = 256;
/// Largest value of a four-octet field.
const WORD_MAX: u32 = u32::MAX;

/// The `CustomResourceDefinition` of `BgpPeer`.
pub(super) fn bgp_peer() -> Value {
    let columns = vec![
        column("Address", "string", ".spec.address", 0),
        column("AS", "string", ".spec.remoteAs", 0),
        column("Port", "integer", ".spec.port", 1),
        column("Hold", "string", ".spec.holdTime", 1),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    Definition {
        kind: "BgpPeer",
        plural: "bgppeers",
        short: "bgpp",
        about: "A router that nodes tell of VIPs, beside those of their configuration files. The fields are those of `bgp.neighbors` there.",
        status_apart: false,
        columns,
        spec: Some(peer()),
        status: None,
    }
    .object()
}

/// The `CustomResourceDefinition` of `BgpAnnouncement`.
pub(super) fn bgp_announcement() -> Value {
    let columns = vec![
        column("Pools", "string", ".spec.pools", 0),
        column("Peers", "string", ".spec.peers", 0),
        column("Communities", "string", ".spec.communities", 0),
        column("LocalPref", "integer", ".spec.localPref", 1),
        column("Age", "date", ".metadata.creationTimestamp", 0),
    ];
    Definition {
        kind: "BgpAnnouncement",
        plural: "bgpannouncements",
        short: "bgpa",
        about: "VIPs that routers are told of, and how. With the first of them a router is told only of what one of them selects for it; of several that select a VIP the first by name holds.",
        status_apart: false,
        columns,
        spec: Some(announcement()),
        status: None,
    }
    .object()
}

fn address(description: &str) -> Value {
    json!({"description": description, "type": "string", "maxLength": ADDRESS_MAX,
        "x-kubernetes-validations": [{"rule": "isIP(self)", "message": "must be an IP address"}]})
}

fn number(description: &str, min: u32, max: u32) -> Value {
    json!({"description": description, "type": "integer", "format": "int64", "minimum": min, "maximum": max})
}

/// A time with its unit, as in the configuration file; a sum of units is none there.
fn time(description: &str) -> Value {
    json!({"description": description, "type": "string", "maxLength": 16, "pattern": "^[0-9]+(ms|s|m|h)$"})
}

fn peer() -> Value {
    json!({
        "type": "object",
        "required": ["address", "remoteAs"],
        "properties": {
            "nodeSelector": selector("Nodes that have the session; without it: all."),
            "address": address("Its address; a link-local one needs interface."),
            "port": number("Its TCP port; 179 where it is not given.", 1, 65_535),
            "remoteAs": {
                "description": "Its AS: external (any but ours), internal (ours), or the number.",
                "x-kubernetes-int-or-string": true,
                "x-kubernetes-validations": [{
                    "rule": "type(self) == int ? self >= 1 && self <= 4294967295 && self != 23456 : self in ['external', 'internal']",
                    "message": "must be external, internal, or a number of 1 to 4294967295 that is not 23456",
                }],
            },
            "localAs": number("Own AS towards it, where that differs from bgp.asn of the configuration file.", 1, WORD_MAX),
            "families": {
                "description": "Families of routes that are offered; without any that of the address.",
                "type": "array",
                "x-kubernetes-list-type": "set",
                "minItems": 1,
                "maxItems": 2,
                "items": {"type": "string", "enum": ["ipv4", "ipv6"]},
            },
            "holdTime": time("Hold time offered, such as 90s."),
            "connectRetry": time("Between attempts to connect."),
            "gracefulRestart": time("Graceful restart (RFC 4724) with this Restart Time."),
            "passwordFile": {
                "description": "File with the TCP MD5 key (RFC 2385) on the node or in the pod, beside the configuration file: a relative path that does not leave its folder. Mount a Secret there.",
                "type": "string",
                "minLength": 1,
                "maxLength": 255,
                "x-kubernetes-validations": [{
                    "rule": "!self.startsWith('/') && !self.split('/').exists(part, part == '..')",
                    "message": "must be a relative path without ..",
                }],
            },
            "source": address("Own address of the session."),
            "interface": {"description": "Link that the session is bound to.", "type": "string", "minLength": 1, "maxLength": 15},
            "multihop": number("How many hops away it may be. BFD becomes multihop BFD (RFC 5883).", 1, 255),
            "ttlSecurity": number("GTSM (RFC 5082): packets from more hops away than this are dropped.", 1, 254),
            "bfd": {
                "description": "BFD (RFC 5880) with it; {} takes the defaults.",
                "type": "object",
                "properties": {
                    "transmitInterval": time("Shortest time between own packets."),
                    "receiveInterval": time("Shortest time between its packets."),
                    "multiplier": number("Packets that may be lost before the path counts as down.", 1, 255),
                    "minimumTtl": number("With multihop: packets with a smaller TTL are dropped.", 1, 255),
                },
            },
            "nextHop": address("Next hop of IPv4 routes; without it our address of the session."),
            "nextHop6": address("Next hop of IPv6 routes; without it our address of the session."),
        },
        "x-kubernetes-validations": [
            {"rule": "!has(self.multihop) || !has(self.ttlSecurity)", "message": "multihop and ttlSecurity exclude one another"},
            {"rule": "!has(self.bfd) || !has(self.bfd.minimumTtl) || has(self.multihop)", "message": "minimumTtl needs multihop"},
        ],
    })
}

fn announcement() -> Value {
    let communities = |description: &str, max: u32| {
        json!({
            "description": description,
            "type": "array",
            "x-kubernetes-list-type": "set",
            "maxItems": COMMUNITIES_MAX,
            "items": {"type": "string", "minLength": 1, "maxLength": max},
        })
    };
    let mut properties = selection();
    let own = json!({
        "nodeSelector": selector("Nodes that tell; without it: all."),
        "peers": {
            "description": "Neighbors that are told, by name: BgpPeers and those of the configuration file; without any: all.",
            "type": "array",
            "x-kubernetes-list-type": "set",
            "maxItems": 64,
            "items": {"type": "string", "minLength": 1, "maxLength": LABEL_MAX},
        },
        "communities": communities("COMMUNITIES (RFC 1997): AS:VALUE or no-export, no-advertise, no-export-subconfed, no-peer, blackhole, graceful-shutdown.", 32),
        "largeCommunities": communities("LARGE_COMMUNITY (RFC 8092), such as 65001:1:2.", 32),
        "extendedCommunities": communities("Route targets and sites of origin (RFC 4360), such as rt:65001:1.", 40),
        "med": number("MULTI_EXIT_DISC.", 0, WORD_MAX),
        "localPref": number("LOCAL_PREF, sent to internal neighbors only.", 0, WORD_MAX),
        "prepend": number("How many more times the own AS is prepended.", 0, 10),
    });
    if let (Value::Object(all), Value::Object(own)) = (&mut properties, own) {
        all.extend(own);
    }
    json!({"type": "object", "properties": properties})
}
