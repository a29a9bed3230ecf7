//! Services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bascule_core::service::translate::{KubePort, KubeService};
use bascule_core::service::{Affinity, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Kind, Meta};

/// Type of our condition in `status.conditions` of a Service. It is also the mark of what we gave: its message begins with the addresses.
pub(crate) const ALLOCATED: &str = "bascule.dev/Allocated";
/// `spec.type` of those that are looked at.
const LOAD_BALANCER: &str = "LoadBalancer";

/// A Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) metadata: Meta,
    pub(crate) spec: Spec,
    pub(crate) status: Status,
}

/// `spec`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) r#type: String,
    pub(crate) load_balancer_class: Option<String>,
    #[serde(rename = "loadBalancerIP")]
    pub(crate) load_balancer_ip: String,
    pub(crate) ip_families: Vec<String>,
    pub(crate) ip_family_policy: String,
    pub(crate) selector: BTreeMap<String, String>,
    ports: Vec<Port>,
    external_traffic_policy: String,
    session_affinity: String,
    load_balancer_source_ranges: Vec<String>,
    publish_not_ready_addresses: bool,
    health_check_node_port: u16,
}

/// One of `spec.ports`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: String,
    port: u16,
    protocol: Transport,
}

/// `protocol`; TCP when it is absent. Others that a later API may bring are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum Transport {
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
    #[serde(other)]
    Other,
}

impl Transport {
    pub(crate) const fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Tcp => Some(Protocol::Tcp),
            Self::Udp => Some(Protocol::Udp),
            Self::Sctp => Some(Protocol::Sctp),
            Self::Other => None,
        }
    }
}

/// `status`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) load_balancer: LoadBalancer,
    pub(crate) conditions: Vec<StatusCondition>,
}

/// `metav1.Condition`, without its time: that says when, and not what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct StatusCondition {
    pub(crate) r#type: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// `status.loadBalancer`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LoadBalancer {
    pub(crate) ingress: Vec<Ingress>,
}

/// One of `status.loadBalancer.ingress`. Host names are nobody's VIPs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Ingress {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ip_mode: Option<String>,
    /// Of others: ours have none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<serde_json::Value>,
}

impl Kind for Service {
    const PATH: &'static str = "/api/v1/services";
    const LIST: &'static str = "ServiceList";
    const PAGE: u32 = 500;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Service {
    /// Without the room that reading it left: it is kept for as long as the object is.
    pub(crate) fn shrunk(mut self) -> Self {
        self.spec.ports.shrink_to_fit();
        self.spec.ip_families.shrink_to_fit();
        self.status.conditions.shrink_to_fit();
        self.status.load_balancer.ingress.shrink_to_fit();
        self
    }

    /// Is it of type LoadBalancer?
    pub(crate) fn is_load_balancer(&self) -> bool {
        self.spec.r#type == LOAD_BALANCER
    }

    /// Does its status carry our condition?
    pub(crate) fn is_marked(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.r#type == ALLOCATED)
    }

    /// `externalTrafficPolicy` is Local.
    pub(crate) fn is_local(&self) -> bool {
        self.spec.external_traffic_policy == "Local"
    }

    /// Ports and protocols that we know.
    pub(crate) fn ports(&self) -> impl Iterator<Item = KubePort> {
        let known = |port: &Port| {
            let protocol = port.protocol.protocol()?;
            Some(KubePort { name: port.name.clone(), port: port.port, protocol })
        };
        self.spec.ports.iter().filter_map(known)
    }

    /// Addresses of the status.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let ingress = &self.status.load_balancer.ingress;
        ingress.iter().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
    }

    /// What the intent keeps of it; `None` when it is of another type.
    pub(crate) fn intent(&self) -> Option<KubeService> {
        self.is_load_balancer().then(|| KubeService {
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
            labels: self.metadata.labels.clone(),
            class: self.spec.load_balancer_class.clone(),
            vips: self.addresses(),
            ports: self.ports().collect(),
            local: self.is_local(),
            affinity: if self.spec.session_affinity == "ClientIP" { Affinity::ClientIp } else { Affinity::None },
            sources: self.spec.load_balancer_source_ranges.iter().map(|range| source(range)).collect(),
            publish_not_ready: self.spec.publish_not_ready_addresses,
            health_check_node_port: self.spec.health_check_node_port,
        })
    }
}

/// One of `loadBalancerSourceRanges`. The API server checks them; a spelling that it takes and that is none here stands for nobody, for
/// leaving it out could open to all what was meant for some. No packet has the unspecified address as its source (RFC 1122 3.2.1.3).
fn source(range: &str) -> IpNet {
    let nobody = || IpNet::from(IpAddr::from([0; 4]));
    range.trim().parse::<IpNet>().map_or_else(|_| nobody(), |net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn every_field_of_a_service_is_read() {
        let all = service(
            r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"web","namespace":"shop","uid":"u","resourceVersion":"9","labels":{"tier":"edge"},
                "managedFields":[{"manager":"kubectl","fieldsV1":{"f:spec":{}}}]},
              "spec":{"type":"LoadBalancer","loadBalancerClass":"bascule.dev/vip","clusterIP":"10.0.0.1","externalTrafficPolicy":"Local",
                "sessionAffinity":"ClientIP","healthCheckNodePort":31000,"publishNotReadyAddresses":true,
                "loadBalancerSourceRanges":["10.1.2.3/8"," 2001:db8::/32 ","010.0.0.0/8","10.0.0.0/8x"],
                "ports":[{"name":"http","port":80,"targetPort":"web","nodePort":30000},{"name":"dns","port":53,"protocol":"UDP"},
                         {"name":"s","port":7,"protocol":"SCTP"},{"name":"x","port":8,"protocol":"HOMA"}]},
              "status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1","ipMode":"VIP"},{"hostname":"x"},{"ip":"2001:db8::1"}]}}}"#,
        );
        let port = |name: &str, port, protocol| KubePort { name: name.to_owned(), port, protocol };
        let wanted = KubeService {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            labels: [("tier".to_owned(), "edge".to_owned())].into(),
            class: Some("bascule.dev/vip".to_owned()),
            vips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ports: vec![port("http", 80, Protocol::Tcp), port("dns", 53, Protocol::Udp), port("s", 7, Protocol::Sctp)],
            local: true,
            affinity: Affinity::ClientIp,
            sources: ["10.0.0.0/8", "2001:db8::/32", "10.0.0.0/8", "0.0.0.0/32"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            publish_not_ready: true,
            health_check_node_port: 31000,
        };
        assert_eq!(all.intent(), Some(wanted));
    }

    #[test]
    fn what_is_absent_has_the_apis_default_and_other_types_are_left_out() {
        let bare =
            service(r#"{"metadata":{"name":"a","namespace":"b"},"spec":{"type":"LoadBalancer","ports":[{"port":1}]}}"#);
        let intent = bare.intent().unwrap();
        assert_eq!((intent.class, intent.vips.len(), intent.local), (None, 0, false));
        assert_eq!(intent.ports, [KubePort { name: String::new(), port: 1, protocol: Protocol::Tcp }]);
        for other in ["ClusterIP", "NodePort", "ExternalName", ""] {
            assert_eq!(service(&format!(r#"{{"spec":{{"type":"{other}"}}}}"#)).intent(), None, "{other}");
        }
    }
}
