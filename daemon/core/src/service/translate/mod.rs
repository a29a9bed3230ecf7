//! From a Service and its EndpointSlices to the wishes that static services are made of too.
//!
//! Who takes new connections follows discovery.k8s.io/v1 and kube-proxy: endpoints that are ready; when there is none, those that
//! terminate and still serve. All others that a slice names are kept for the connections they have. Where every node announces a VIP,
//! `externalTrafficPolicy: Local` lets a node know its own endpoints only, so its tables differ from those of other nodes and a flow does not
//! survive that a router picks another one: that is what Local means there.

mod io;
#[cfg(test)]
mod tests;

use core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use io::{HealthPort, KubePort, KubeService, NotOurs, Policy, Slice, SliceEndpoint, SlicePort, Wishes};
use ipnet::IpNet;

use super::{Delivery, EndpointSpec, Protocol, ServiceSpec, WhenAllFail, number_of};
use crate::types::Family;

/// How an endpoint stands, worst first: of two slices that both name it for a moment, the better word counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stand {
    /// Keeps what it has.
    Unready,
    /// About to go, and takes new connections if nobody else does.
    Serving,
    /// Takes new connections.
    Ready,
}

/// An endpoint of one service port.
struct Candidate<'a> {
    stand: Stand,
    node: Option<&'a Arc<str>>,
}

/// What becomes of a service on the node of the policy.
///
/// # Errors
/// When the service is somebody else's: nothing of it may be touched.
pub fn translate(service: &KubeService, slices: &[Arc<Slice>], policy: &Policy) -> Result<Wishes, NotOurs> {
    match &service.class {
        Some(class) if !policy.classes.contains(class) => {
            return Err(NotOurs::ForeignClass { class: class.clone() });
        }
        None if !policy.unclassed => return Err(NotOurs::Unclassed),
        Some(_) | None => {}
    }
    let vips: BTreeSet<IpAddr> = service.vips.iter().copied().collect();
    let mut wishes = Wishes { services: Vec::new(), may_own: vips.clone(), health: None };
    let mut ready_here = BTreeSet::new();
    for vip in vips {
        for port in &service.ports {
            let family = Family::of(&vip);
            let candidates = candidates(service, slices, port, family, policy);
            let endpoints = endpoints(&candidates);
            let here = |node: Option<&Arc<str>>| node.is_some_and(|node| **node == *policy.node);
            ready_here.extend(
                candidates.iter().filter(|(_, c)| c.stand == Stand::Ready && here(c.node)).map(|((a, _), _)| *a),
            );
            if policy.everywhere && service.local && endpoints.iter().all(|endpoint| endpoint.draining) {
                let _not_here = wishes.may_own.remove(&vip);
            }
            wishes.services.push(Arc::new(spec(service, port, vip, endpoints, policy)));
        }
    }
    if service.local && service.health_check_node_port != 0 {
        wishes.health = Some(HealthPort { port: service.health_check_node_port, endpoints: ready_here.len() });
    }
    Ok(wishes)
}

/// Endpoints of a port by address and number. Ports are matched by name and protocol: the number of a named target port may differ from
/// slice to slice.
fn candidates<'a>(
    service: &KubeService,
    slices: &'a [Arc<Slice>],
    port: &KubePort,
    family: Family,
    policy: &Policy,
) -> BTreeMap<(IpAddr, u16), Candidate<'a>> {
    let mut found: BTreeMap<(IpAddr, u16), Candidate<'a>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        let same = |p: &&SlicePort| p.name == port.name && p.protocol == port.protocol;
        let Some(target) = slice.ports.iter().find(same) else { continue };
        for endpoint in &slice.endpoints {
            let node = endpoint.node.as_ref();
            if policy.everywhere && service.local && node.is_none_or(|node| **node != *policy.node) {
                continue;
            }
            let stand = stand(endpoint, service.publish_not_ready);
            let known = found.entry((endpoint.address, target.port)).or_insert(Candidate { stand, node });
            if stand > known.stand {
                *known = Candidate { stand, node };
            }
        }
    }
    found
}

fn stand(endpoint: &SliceEndpoint, publish_not_ready: bool) -> Stand {
    let ready = endpoint.ready.unwrap_or(true);
    let serving = endpoint.serving.unwrap_or(ready);
    match (endpoint.terminating.unwrap_or(false), ready || publish_not_ready, serving) {
        // The API sets `ready` on an endpoint that terminates only where readiness is overridden.
        (_, true, _) => Stand::Ready,
        (true, false, true) => Stand::Serving,
        (true, false, false) | (false, false, _) => Stand::Unready,
    }
}

fn endpoints(candidates: &BTreeMap<(IpAddr, u16), Candidate<'_>>) -> Vec<EndpointSpec> {
    // With none ready those that serve to the last take new connections too; nobody falls back on an unready one.
    let best = candidates.values().map(|candidate| candidate.stand).max().unwrap_or(Stand::Unready);
    let takes_new = |stand: Stand| stand == best && stand > Stand::Unready;
    let spec = |(&(address, port), candidate): (&(IpAddr, u16), &Candidate<'_>)| EndpointSpec {
        // A pod that comes back has another address: this is as stable as the endpoint is.
        name: match address {
            IpAddr::V4(v4) => format!("{v4}:{port}"),
            IpAddr::V6(v6) => format!("[{v6}]:{port}"),
        },
        address,
        port,
        node: candidate.node.cloned(),
        weight: 1,
        draining: !takes_new(candidate.stand),
        check: None,
    };
    candidates.iter().map(spec).collect()
}

fn spec(
    service: &KubeService,
    port: &KubePort,
    vip: IpAddr,
    endpoints: Vec<EndpointSpec>,
    policy: &Policy,
) -> ServiceSpec {
    let KubeService { namespace, name, .. } = service;
    let name = format!("{namespace}/{name}/{vip}/{}/{}", port.port, port.protocol);
    ServiceSpec {
        number: number_of(&name),
        name,
        vip,
        port: port.port,
        protocol: port.protocol,
        // SCTP is not rewritten: the stack behind does it, unless nobody shall.
        delivery: match (port.protocol, policy.delivery) {
            (Protocol::Sctp, Delivery::Direct) => Delivery::Delegate,
            (Protocol::Tcp | Protocol::Udp | Protocol::Sctp, delivery) => delivery,
        },
        returns: policy.returns,
        affinity: service.affinity,
        sources: sources(&service.sources, vip),
        drain: policy.drain,
        ask: false,
        quic: false,
        // Kubernetes says who is ready; there is nothing to doubt, and nobody to fall back on.
        when_all_fail: WhenAllFail::Refuse,
        when_unplaced: policy.when_unplaced,
        draining: false,
        elsewhere: false,
        endpoints: Arc::new(endpoints),
    }
}

/// Ranges of the VIP's family. Where there are ranges and none is of this family, nobody may connect: who wrote IPv4 ranges only did not
/// mean to open the service to all of IPv6. The unspecified address stands for nobody, for it is no packet's source (RFC 4291 section 2.5.2,
/// RFC 1122 section 3.2.1.3).
fn sources(all: &[IpNet], vip: IpAddr) -> Vec<IpNet> {
    let of_family: Vec<IpNet> = all.iter().copied().filter(|net| net.network().is_ipv4() == vip.is_ipv4()).collect();
    if of_family.is_empty() && !all.is_empty() {
        let nobody = if vip.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        return vec![IpNet::from(nobody)];
    }
    of_family
}
