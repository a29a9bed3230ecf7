//! Which endpoints take new connections, and what that makes the members of both tables.

use std::collections::{BTreeMap, BTreeSet};

use super::absent::Absence;
use super::damping::State;
use super::maglev::{self, Member};
use super::service::{Known, Service};
use super::unplaced::Unplaced;
use crate::service::{EndpointId, EndpointSpec, NodeSpec, ServiceKey, WhenAllFail};

use super::io::DrainTarget;

/// What a choice needs to know of the nodes.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// Name of this node.
    pub(super) this: String,
    pub(super) by_name: BTreeMap<String, NodeSpec>,
    /// Those whose daemons are not heard, by name.
    pub(super) absent: BTreeMap<String, Absence>,
    /// Number of the last inquiry.
    pub(super) inquiries: u32,
    /// What an operator took out of use.
    pub(super) drained: BTreeSet<DrainTarget>,
    /// Services of which nothing here may answer.
    pub(super) held: BTreeSet<ServiceKey>,
    /// Endpoints here whose place is not found.
    pub(super) unplaced: Unplaced,
}

impl Nodes {
    pub(super) fn is_up(&self, name: &str) -> bool {
        let heard = self.absent.is_empty() || name == self.this || self.absent.get(name).is_none_or(|a| a.is_up());
        heard && self.by_name.contains_key(name)
    }

    /// Are its flows out of reach? A node whose daemon hangs, crashed, or is being replaced takes no new flows and keeps those it has.
    pub(super) fn is_dead(&self, name: &str) -> bool {
        !self.is_up(name) && self.absent.get(name).is_none_or(|a| a.is_dead())
    }

    pub(super) fn is_draining(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|n| n.draining) || self.is_drained(|| DrainTarget::Node(name.to_owned()))
    }

    /// The site of this node.
    pub(super) fn site(&self) -> u8 {
        self.by_name.get(&self.this).map_or(0, |n| n.site)
    }

    /// Nodes of this site.
    fn own(&self) -> impl Iterator<Item = &NodeSpec> {
        let site = self.site();
        self.by_name.values().filter(move |n| n.site == site)
    }

    /// Those of this site that take part.
    fn usable(&self) -> impl Iterator<Item = &NodeSpec> {
        self.own().filter(|n| self.is_up(&n.name))
    }

    pub(super) fn service_draining(&self, service: &Service) -> bool {
        service.spec.draining || self.is_drained(|| DrainTarget::Service(service.key))
    }

    /// A service that drains and that no other site has takes nothing new. One that others have goes on: they hear of it one after the other and
    /// send until they have, and nothing is wrong with the endpoints. Where new connections go is the policy's, which hears of it by
    /// [`super::serving::Serving`]: what still comes when all have heard comes because nobody else is there.
    pub(super) fn is_closed(&self, service: &Service) -> bool {
        self.service_draining(service) && !service.spec.elsewhere
    }

    /// By hand. Mostly nothing is, and then nothing is to be looked for.
    fn is_drained(&self, target: impl FnOnce() -> DrainTarget) -> bool {
        !self.drained.is_empty() && self.drained.contains(&target())
    }

    pub(super) fn endpoint_draining(&self, service: &Service, endpoint: &EndpointSpec, known: &Known) -> bool {
        let id = || EndpointId { service: service.key, endpoint: endpoint.name.clone() };
        endpoint.draining || known.state() == State::Draining || self.is_drained(|| DrainTarget::Endpoint(id()))
    }
}

/// Who takes new connections.
#[derive(Debug, Default)]
pub(super) struct Choice {
    /// Whether each endpoint does, in the order of the configuration; empty: nobody does.
    pub(super) serving: Vec<bool>,
    /// None is ready: these are the last that were.
    pub(super) kept: bool,
    /// None is ready.
    pub(super) all_unready: bool,
    /// A check that matters has not spoken.
    pub(super) unknown: bool,
}

/// Who is taken when all ranks before are empty.
type Rank<'a> = dyn Fn(&EndpointSpec, &Known) -> bool + 'a;

/// Chooses. Ready endpoints on nodes that are up and not draining; when there are none, those that a damped health holds back; then
/// those of draining nodes (nobody else is there); then, if the service wants it, those that served last.
pub(super) fn choose(service: &Service, nodes: &Nodes) -> Choice {
    let usable = |e: &EndpointSpec, known: &Known| {
        e.weight > 0 && !nodes.endpoint_draining(service, e, known) && e.node.as_deref().is_none_or(|n| nodes.is_up(n))
    };
    let all: Vec<bool> = service.endpoints().map(|(e, known)| usable(e, known)).collect();
    let stays = |e: &EndpointSpec| e.node.as_deref().is_none_or(|n| !nodes.is_draining(n));
    let ready = |_: &EndpointSpec, known: &Known| known.state() == State::Ready;
    let held = |_: &EndpointSpec, known: &Known| matches!(known.state(), State::Held(_));
    let unknown = all.iter().zip(&service.known).any(|(usable, known)| *usable && known.state() == State::Unknown);
    let last = |_: &EndpointSpec, known: &Known| service.spec.when_all_fail == WhenAllFail::Keep && known.serving;
    let ranks: [&Rank<'_>; 5] =
        [&|e, known| ready(e, known) && stays(e), &|e, known| held(e, known) && stays(e), &ready, &held, &last];
    for (i, rank) in ranks.into_iter().enumerate() {
        let serves = |(usable, (e, known)): (&bool, (&EndpointSpec, &Known))| *usable && rank(e, known);
        let serving: Vec<bool> = all.iter().zip(service.endpoints()).map(serves).collect();
        if serving.contains(&true) {
            let kept = i + 1 == ranks.len();
            return Choice { serving, kept, all_unready: kept, unknown };
        }
    }
    Choice { all_unready: !service.spec.endpoints.is_empty(), unknown, ..Choice::default() }
}

/// Which endpoints served before this node had heard of anybody, for all it knows: those that nothing speaks against.
pub(super) fn supposed<'a>(service: &'a Service, nodes: &'a Nodes) -> impl Iterator<Item = &'a EndpointSpec> {
    let fine = |(e, known): &(&EndpointSpec, &Known)| {
        let sound = !matches!(known.state(), State::Unready | State::Draining);
        let up = e.node.as_deref().is_none_or(|n| nodes.is_up(n));
        sound && e.weight > 0 && !nodes.endpoint_draining(service, e, known) && up
    };
    service.endpoints().filter(fine).map(|(e, _)| e)
}

/// The members of the first level, for endpoints that are `serving`. Those behind routers are everybody's: each node that is up carries an
/// equal part of their weight, so that the loss of one moves their flows to a node that rewrites them just the same.
pub(super) fn node_members<'a>(serving: impl Iterator<Item = &'a EndpointSpec>, nodes: &Nodes) -> Vec<Member> {
    let mut weights: BTreeMap<Option<&str>, u32> = BTreeMap::new();
    for e in serving {
        *weights.entry(e.node.as_deref()).or_default() += u32::from(e.weight);
    }
    let weight_of = |node: Option<&str>| weights.get(&node).copied().unwrap_or_default();
    let shared = weight_of(None);
    let carriers = if shared == 0 { Vec::new() } else { shared_by(nodes) };
    let takes_shared = |n: &NodeSpec| carriers.contains(&n.name.as_str());
    let scale = if shared == 0 { 1 } else { u32::try_from(carriers.len()).unwrap_or(1) };
    let member = |n: &NodeSpec| {
        let own = weight_of(Some(&n.name)).saturating_mul(scale);
        let weight = own.saturating_add(if takes_shared(n) { shared } else { 0 });
        (weight > 0).then(|| Member { id: n.id, name: n.name.clone(), weight })
    };
    nodes.usable().filter_map(member).collect()
}

/// Nodes that carry endpoints behind routers: those that are up and not draining, or all that are up.
fn shared_by(nodes: &Nodes) -> Vec<&str> {
    let staying: Vec<&str> = nodes.usable().filter(|n| !nodes.is_draining(&n.name)).map(|n| n.name.as_str()).collect();
    if staying.is_empty() { nodes.usable().map(|n| n.name.as_str()).collect() } else { staying }
}

/// The members of the second level. Weights of endpoints of this node count as often as others share those behind routers.
pub(super) fn local_members(service: &Service, nodes: &Nodes) -> Vec<Member> {
    let here = service.reachable(&nodes.this).filter(|(e, known)| known.serving && e.weight > 0);
    let here: Vec<&EndpointSpec> = here.map(|(e, _)| e).collect();
    let mixed = here.iter().any(|e| e.node.is_none()) && here.iter().any(|e| e.node.is_some());
    let scale = if mixed { u32::try_from(shared_by(nodes).len()).unwrap_or(1) } else { 1 };
    let mut members: Vec<Member> = Vec::new();
    for e in here {
        let place = if service.is_delegated(e, nodes) { service.stack() } else { (e.address, e.port) };
        let Some(local) = service.slots.get(&place) else { continue };
        let weight = u32::from(e.weight) * if e.node.is_some() { scale } else { 1 };
        match members.iter_mut().find(|member| member.id == local.slot.0) {
            // All that the stack delivers to is one.
            Some(stack) => stack.weight = stack.weight.saturating_add(weight),
            None => members.push(Member { id: local.slot.0, name: local.name.clone(), weight }),
        }
    }
    members
}

/// Sizes of both tables. By what is configured and not by what is ready, so that health never changes them.
pub(super) fn sizes(service: &Service, nodes: &Nodes) -> (u16, u16) {
    let all: Vec<&EndpointSpec> = service.spec.endpoints.iter().collect();
    let here: Vec<&EndpointSpec> = service.reachable(&nodes.this).map(|(e, _)| e).collect();
    let shared = all.iter().any(|e| e.node.is_none());
    let carriers = if shared { nodes.own().count() } else { 0 };
    (size(&all, carriers), size(&here, 0))
}

fn size(endpoints: &[&EndpointSpec], at_least: usize) -> u16 {
    let weights = || endpoints.iter().map(|e| u64::from(e.weight)).filter(|w| *w > 0);
    let unit = weights().fold(0, gcd).max(1);
    maglev::size(endpoints.len().max(at_least), weights().sum::<u64>() / unit)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
