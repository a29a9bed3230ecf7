//! Services and slices as objects of the API.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::{ENDPOINT_PORT, PORT};
use crate::apiserver::Call;

const SERVICES: &str = "/api/v1/namespaces/shop/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices";
/// Endpoints of one third byte of the address.
const ROW: usize = 250;

/// Endpoint `k` of node `n`.
pub fn endpoint(n: u8, k: usize) -> Ipv4Addr {
    let row = u8::try_from(k / ROW).unwrap_or(u8::MAX).min(63);
    let last = u8::try_from(k % ROW).unwrap_or_default();
    Ipv4Addr::new(10, 20 + n, 64 + row, 1 + last)
}

/// A Service of one TCP port with its endpoints.
#[derive(Debug, Clone)]
pub struct Made {
    /// In the namespace `shop`.
    pub name: String,
    /// Node, address, and whether it is ready.
    pub endpoints: Vec<(u8, Ipv4Addr, bool)>,
}

impl Made {
    /// Both writes.
    pub fn calls(&self) -> [Call; 2] {
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": "bascule.dev/vip", "allocateLoadBalancerNodePorts": false,
                "ports": [{"name": "web", "protocol": "TCP", "port": PORT, "targetPort": "web"}]}});
        [
            Call { method: "POST", path: SERVICES.to_owned(), body: service },
            Call { method: "POST", path: SLICES.to_owned(), body: self.slice() },
        ]
    }

    /// The slice as it is now, over the one that is there.
    pub fn again(&self) -> Call {
        Call { method: "PUT", path: format!("{SLICES}/{}", self.name), body: self.slice() }
    }

    /// Both gone.
    pub fn gone(&self) -> [Call; 2] {
        let delete = |path: &str| Call { method: "DELETE", path: format!("{path}/{}", self.name), body: Value::Null };
        [delete(SERVICES), delete(SLICES)]
    }

    fn slice(&self) -> Value {
        let one = |(node, address, ready): &(u8, Ipv4Addr, bool)| {
            json!({"addresses": [address], "nodeName": format!("n{node}"),
                "conditions": {"ready": ready, "serving": ready, "terminating": false}})
        };
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/service-name": self.name}},
            "ports": [{"name": "web", "protocol": "TCP", "port": ENDPOINT_PORT}],
            "endpoints": self.endpoints.iter().map(one).collect::<Vec<Value>>()})
    }
}

/// Name and address of a Service that has one.
pub(super) fn given(object: &Value) -> Option<(String, Ipv4Addr)> {
    let address = object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?.parse().ok()?;
    Some((object["metadata"]["name"].as_str()?.to_owned(), address))
}
