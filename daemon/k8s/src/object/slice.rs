//! EndpointSlices, kept small: an endpoint takes 40 bytes, whatever its node is called, and intents share them.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use bascule_core::service::translate::{Slice, SliceEndpoint, SlicePort};
use bascule_core::types::Family;
use serde::Deserialize;

use super::service::Transport;
use super::{Key, Kind, Meta};

/// The label that names the Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct EndpointSlice {
    metadata: Meta,
    address_type: String,
    // Both are null when there is nothing, in objects written by Go.
    ports: Option<Vec<Port>>,
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
    protocol: Option<Transport>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Vec<String>,
    conditions: Conditions,
    node_name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

impl Kind for EndpointSlice {
    const PATH: &'static str = "/apis/discovery.k8s.io/v1/endpointslices";
    const LIST: &'static str = "EndpointSliceList";
    // 100 endpoints each, at 400 bytes: 10 MB.
    const PAGE: u32 = 250;

    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// What is kept of a slice.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeptSlice {
    /// Namespace and name of its Service.
    pub(crate) service: Key,
    /// What [`mark`] makes of them: most slices are told apart by it, without a look at the words.
    pub(crate) mark: u64,
    /// As intents have it.
    pub(crate) slice: Arc<Slice>,
}

/// A number made of a key. Different keys may have the same.
pub(crate) fn mark(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Names of nodes, each once in memory.
#[derive(Debug, Default)]
pub(crate) struct Names(HashSet<Arc<str>>);

impl Names {
    fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        let _new = self.0.insert(name.clone());
        name
    }

    /// Forgets those that no endpoint has.
    pub(crate) fn tidy(&mut self) {
        self.0.retain(|name| Arc::strong_count(name) > 1);
    }
}

impl EndpointSlice {
    /// `None` for slices that belong to no Service, and for those of names.
    pub(crate) fn keep(self, names: &mut Names) -> Option<KeptSlice> {
        let family = match self.address_type.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            _ => return None,
        };
        let service = (self.metadata.namespace, self.metadata.labels.get(SERVICE)?.clone());
        let port = |port: Port| {
            let protocol = port.protocol.unwrap_or_default().protocol()?;
            Some(SlicePort { name: port.name.unwrap_or_default(), port: port.port?, protocol })
        };
        let mut endpoint = |endpoint: Endpoint| {
            let address = endpoint.addresses.first()?.parse().ok().filter(|address| Family::of(address) == family)?;
            let node = endpoint.node_name.as_deref().map(|name| names.get(name));
            let Conditions { ready, serving, terminating } = endpoint.conditions;
            Some(SliceEndpoint { address, ready, serving, terminating, node })
        };
        let mut ports: Vec<SlicePort> = self.ports.unwrap_or_default().into_iter().filter_map(port).collect();
        let mut endpoints: Vec<SliceEndpoint> =
            self.endpoints.unwrap_or_default().into_iter().filter_map(&mut endpoint).collect();
        // Kept for as long as the object is.
        ports.shrink_to_fit();
        endpoints.shrink_to_fit();
        Some(KeptSlice { mark: mark(&service), service, slice: Arc::new(Slice { family, ports, endpoints }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bascule_core::service::Protocol;

    fn keep(text: &str, names: &mut Names) -> Option<KeptSlice> {
        serde_json::from_str::<EndpointSlice>(text).unwrap().keep(names)
    }

    #[test]
    fn a_slice_is_read_and_comes_back_whole() {
        let mut names = Names::default();
        let kept = keep(
            r#"{"metadata":{"name":"web-1","namespace":"shop","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
              "ports":[{"name":"http","port":8080,"protocol":"TCP"},{"name":"all"}],
              "endpoints":[{"addresses":["10.1.0.1","10.1.0.2"],"nodeName":"n1","conditions":{"ready":true,"serving":true,"terminating":false}},
                {"addresses":["10.1.0.3"],"nodeName":"n1","conditions":{}},{"addresses":["2001:db8::1"]},{"addresses":[]},{"addresses":["10.1.0.4"]}]}"#,
            &mut names,
        )
        .unwrap();
        assert_eq!(kept.service, ("shop".to_owned(), "web".to_owned()));
        let slice = Arc::clone(&kept.slice);
        assert_eq!(slice.ports, [SlicePort { name: "http".to_owned(), port: 8080, protocol: Protocol::Tcp }]);
        let endpoint = |address: &str, ready, terminating, node: Option<&str>| SliceEndpoint {
            address: address.parse().unwrap(),
            ready,
            serving: ready,
            terminating,
            node: node.map(Into::into),
        };
        let wanted = [
            endpoint("10.1.0.1", Some(true), Some(false), Some("n1")),
            endpoint("10.1.0.3", None, None, Some("n1")),
            endpoint("10.1.0.4", None, None, None),
        ];
        assert_eq!(slice.endpoints, wanted);
        assert_eq!((names.0.len(), size_of::<SliceEndpoint>() <= 40), (1, true));
        drop((kept, slice, wanted));
        names.tidy();
        assert_eq!(names.0.len(), 0);
    }

    #[test]
    fn slices_of_names_of_nobody_and_of_nothing() {
        let mut names = Names::default();
        let labels = r#""metadata":{"name":"a","namespace":"b","labels":{"kubernetes.io/service-name":"web"}}"#;
        assert_eq!(keep(&format!(r#"{{{labels},"addressType":"FQDN"}}"#), &mut names), None);
        assert_eq!(keep(r#"{"metadata":{"name":"a"},"addressType":"IPv6"}"#, &mut names), None);
        let empty = keep(&format!(r#"{{{labels},"addressType":"IPv6","ports":null,"endpoints":null}}"#), &mut names);
        assert_eq!(*empty.unwrap().slice, Slice { family: Family::V6, ports: Vec::new(), endpoints: Vec::new() });
    }
}
