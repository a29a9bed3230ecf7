//! From a Service to what it asks the allocator for.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bascule_core::ipam::{Cross, Families, Labels, Request, ServiceId, Sharing};
use k8s_openapi::jiff::Timestamp;

use crate::object::service::Service;

/// Annotation: the pool to give from.
pub(super) const POOL: &str = "bascule.dev/pool";
/// Annotations that ask for addresses, the strongest first. The others are kube-vip's and MetalLB's, old and new.
pub(super) const ADDRESSES: [&str; 4] = [
    "bascule.dev/addresses",
    "kube-vip.io/loadbalancerIPs",
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
];
/// Annotations with a key: Services of one key share an address when their ports differ. MetalLB's mean the same.
pub(super) const SHARED: [&str; 3] =
    ["bascule.dev/allow-shared-ip", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];
/// Annotation: with which other namespaces, or `*`.
pub(super) const SHARED_WITH: &str = "bascule.dev/allow-shared-ip-with";

/// Whose a Service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Ours,
    /// Of another class; or of none, where those are somebody else's.
    Foreign,
    /// Not of type LoadBalancer, or being deleted.
    Nobodys,
}

/// What it asks for, and what of it makes no sense.
pub(super) fn request(service: &Service, namespace_labels: &Labels) -> (Request, Option<String>) {
    let meta = &service.metadata;
    let annotation = |name: &str| meta.annotations.get(name).map(|value| value.trim()).filter(|v| !v.is_empty());
    let mut wrong = None;
    let mut requested = Vec::new();
    let by_annotation = ADDRESSES.iter().find_map(|name| Some((*name, annotation(name)?)));
    let by_field = Some(("loadBalancerIP", service.spec.load_balancer_ip.as_str())).filter(|(_, ip)| !ip.is_empty());
    if let Some((source, text)) = by_annotation.or(by_field) {
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.parse::<IpAddr>() {
                // kube-vip's word for an address by DHCP: nothing of ours is asked for.
                Ok(address) if address.is_unspecified() => {}
                Ok(address) => requested.push(address),
                Err(_) => wrong = Some(format!("{source}: {part:?} is no address")),
            }
        }
    }
    let key = SHARED.iter().find_map(|name| annotation(name));
    let cross = match annotation(SHARED_WITH) {
        None => Cross::Own,
        Some("*") => Cross::Any,
        Some(names) => Cross::With(names.split(',').map(|name| name.trim().to_owned()).collect()),
    };
    let status = service.addresses();
    let request = Request {
        id: id(service),
        created: created(meta.creation_timestamp.as_deref()),
        namespace_labels: namespace_labels.clone(),
        labels: meta.labels.clone(),
        families: families(service),
        requested,
        pool: annotation(POOL).map(str::to_owned),
        sharing: key.map(|key| Sharing { key: key.to_owned(), cross }),
        ports: service.ports().map(|port| (port.protocol, port.port)).collect(),
        local: service.is_local().then(|| format!("{}/{:?}", meta.namespace, service.spec.selector)),
        status,
    };
    (request, wrong)
}

/// Somebody else's Service that has addresses: they are taken, whatever our pools say. `None` when it has none.
pub(super) fn reservation(service: &Service) -> Option<Request> {
    let (request, _) = request(service, &Labels::new());
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = request.status.iter().copied().partition(IpAddr::is_ipv4);
    let families = match (v4.is_empty(), v6.is_empty()) {
        (true, true) => return None,
        (false, true) => Families::V4,
        (true, false) => Families::V6,
        (false, false) => Families::PreferDual,
    };
    Some(Request { families, requested: request.status.clone(), pool: None, ..request })
}

pub(super) fn id(service: &Service) -> ServiceId {
    ServiceId { namespace: service.metadata.namespace.clone(), name: service.metadata.name.clone() }
}

fn families(service: &Service) -> Families {
    let families: BTreeSet<&str> = service.spec.ip_families.iter().map(String::as_str).collect();
    let both = families.len() > 1;
    match service.spec.ip_family_policy.as_str() {
        "RequireDualStack" => Families::RequireDual,
        "PreferDualStack" if both => Families::PreferDual,
        // A cluster of one family: the Service has no endpoints of the other.
        _ if families.contains("IPv6") && !both => Families::V6,
        _ => Families::V4,
    }
}

fn created(text: Option<&str>) -> u64 {
    let seconds = text.and_then(|text| text.parse::<Timestamp>().ok()).map(Timestamp::as_second);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use bascule_core::service::Protocol;
    use serde_json::{Value, json};

    use super::*;

    fn ask(annotations: Value, spec: Value) -> (Request, Option<String>) {
        let service = json!({"metadata": {"name": "web", "namespace": "shop", "annotations": annotations,
            "creationTimestamp": "1970-01-01T00:01:00Z"}, "spec": spec});
        request(&serde_json::from_value(service).unwrap(), &Labels::new())
    }

    fn addresses(annotations: Value, spec: Value) -> Vec<String> {
        ask(annotations, spec).0.requested.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_are_asked_for_in_five_ways_and_the_strongest_counts() {
        let field = json!({"loadBalancerIP": "192.0.2.5"});
        assert_eq!(addresses(json!({}), field.clone()), ["192.0.2.5"]);
        for (rank, name) in ADDRESSES.iter().enumerate() {
            let mut all = json!({});
            for weaker in &ADDRESSES[rank..] {
                all[weaker] = json!("192.0.2.9");
            }
            all[name] = json!("192.0.2.7, 2001:db8::7");
            assert_eq!(addresses(all, field.clone()), ["192.0.2.7", "2001:db8::7"], "{name}");
        }
        assert_eq!(addresses(json!({"kube-vip.io/loadbalancerIPs": "0.0.0.0,::"}), json!({})), [""; 0]);
        let (request, wrong) = ask(json!({"bascule.dev/addresses": "192.0.2.7,web"}), json!({}));
        assert_eq!(
            (request.requested.len(), wrong.as_deref()),
            (1, Some("bascule.dev/addresses: \"web\" is no address"))
        );
    }

    #[test]
    fn families_follow_what_the_cluster_gave() {
        let of = |policy: &str, families: &[&str]| {
            ask(json!({}), json!({"ipFamilyPolicy": policy, "ipFamilies": families})).0.families
        };
        assert_eq!(of("SingleStack", &["IPv4"]), Families::V4);
        assert_eq!(of("SingleStack", &["IPv6"]), Families::V6);
        assert_eq!(of("PreferDualStack", &["IPv6"]), Families::V6);
        assert_eq!(of("PreferDualStack", &["IPv6", "IPv4"]), Families::PreferDual);
        assert_eq!(of("RequireDualStack", &["IPv4", "IPv6"]), Families::RequireDual);
        assert_eq!(of("", &[]), Families::V4);
    }

    #[test]
    fn sharing_pool_ports_and_age_are_read() {
        let annotations = json!({"metallb.io/allow-shared-ip": "k", SHARED_WITH: "a, b", POOL: "edge"});
        let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]);
        let spec = json!({"ports": ports, "externalTrafficPolicy": "Local", "selector": {"app": "web"}});
        let (request, _) = ask(annotations, spec);
        let with = ["a", "b"].map(str::to_owned).into();
        assert_eq!(request.sharing, Some(Sharing { key: "k".to_owned(), cross: Cross::With(with) }));
        assert_eq!((request.pool.as_deref(), request.created), (Some("edge"), 60));
        assert_eq!(request.ports, BTreeSet::from([(Protocol::Tcp, 80), (Protocol::Udp, 53)]));
        assert!(request.local.is_some_and(|local| local.contains("shop") && local.contains("web")));
        let (request, _) = ask(json!({SHARED[0]: "k", SHARED_WITH: "*"}), json!({}));
        assert_eq!((request.sharing.unwrap().cross, request.local), (Cross::Any, None));
    }

    #[test]
    fn what_others_gave_is_taken() {
        let service =
            |ips: Value| serde_json::from_value(json!({"status": {"loadBalancer": {"ingress": ips}}})).unwrap();
        assert_eq!(reservation(&service(json!([{"hostname": "x"}]))), None);
        let request = reservation(&service(json!([{"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}]))).unwrap();
        assert_eq!((request.families, request.requested.len()), (Families::PreferDual, 2));
    }
}
