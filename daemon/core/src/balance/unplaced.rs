//! Endpoints of this node whose place, the network namespace with their sockets, the driver cannot find.
//!
//! Such an endpoint cannot be asked for the flows that it has. A service that wants it so ([`WhenUnplaced::Delegate`]) leaves new connections of
//! these endpoints to the stack behind the programs: they share one slot whose address is the VIP itself, so that nothing is rewritten. An
//! endpoint's own slot stays, as that of any endpoint that takes nothing new: what it has is found by the flow table through the history of
//! the rows, and when its place is found the rows come back to it.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::Balancer;
use super::choice::Nodes;
use super::io::{Action, Report};
use super::room::Room;
use super::service::Service;
use crate::service::{Delivery, EndpointSpec, Return, WhenUnplaced};
use crate::time::Instant;

/// How long a place may be missing. The slice of a pod comes before its route now and then and goes after it, and a neighbour behind a bridge
/// is asked for its MAC; all of that takes a second at most.
pub const PLACE_PATIENCE: Duration = Duration::from_secs(3);

/// The stack among the endpoints of a service. No endpoint of a configuration is called so.
const STACK: &str = "the stack";

#[derive(Debug, Default)]
pub(super) struct Unplaced {
    /// Since when the driver has no place for them.
    since: BTreeMap<IpAddr, Instant>,
    /// Those of which patience is over.
    lost: BTreeSet<IpAddr>,
}

impl Unplaced {
    /// All that have no place now. Gives those that are found.
    fn tell(&mut self, addresses: &BTreeSet<IpAddr>, now: Instant) -> BTreeSet<IpAddr> {
        self.since.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let _since = self.since.entry(*address).or_insert(now);
        }
        let found = self.lost.difference(addresses).copied().collect();
        self.lost.retain(|address| addresses.contains(address));
        found
    }

    /// Gives those of which patience is over now.
    fn expire(&mut self, now: Instant) -> BTreeSet<IpAddr> {
        let over = |(address, since): (&IpAddr, &Instant)| (*since + PLACE_PATIENCE <= now).then_some(*address);
        let over: BTreeSet<IpAddr> = self.since.iter().filter_map(over).filter(|a| !self.lost.contains(a)).collect();
        self.lost.extend(&over);
        over
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.since.iter().filter(|(address, _)| !self.lost.contains(address));
        waits.map(|(_, since)| *since + PLACE_PATIENCE).min()
    }
}

impl Service {
    /// Address and port of the stack's slot.
    pub(super) fn stack(&self) -> (IpAddr, u16) {
        (self.key.vip, self.key.port)
    }

    fn hands_on(&self) -> bool {
        // Replies through the ingress node must be rewritten here.
        let spec = &self.spec;
        spec.when_unplaced == WhenUnplaced::Delegate
            && spec.delivery == Delivery::Direct
            && spec.returns == Return::Direct
    }

    fn lacks_place(&self, endpoint: &EndpointSpec, nodes: &Nodes) -> bool {
        self.hands_on() && endpoint.node.is_some() && nodes.unplaced.lost.contains(&endpoint.address)
    }

    /// Does the stack deliver what is new to this endpoint of this node? Without a slot for the stack our programs go on.
    pub(super) fn is_delegated(&self, endpoint: &EndpointSpec, nodes: &Nodes) -> bool {
        self.lacks_place(endpoint, nodes) && self.slots.contains_key(&self.stack())
    }

    /// The stack as an endpoint, while one of those that take new connections here has no place.
    pub(super) fn wanted_stack(&self, nodes: &Nodes) -> Option<EndpointSpec> {
        let mut here = self.reachable(&nodes.this);
        let (address, port) = self.stack();
        here.any(|(e, known)| known.serving && self.lacks_place(e, nodes)).then(|| EndpointSpec {
            name: STACK.to_owned(),
            address,
            port,
            // It has no network namespace to be found.
            node: None,
            weight: 1,
            draining: false,
            check: None,
        })
    }

    /// Tells when the number of endpoints here that the stack delivers to has changed.
    pub(super) fn report_delegated(&mut self, nodes: &Nodes, room: &mut Room) {
        let here = self.reachable(&nodes.this);
        let count = here.filter(|(e, known)| known.serving && self.is_delegated(e, nodes)).count();
        if std::mem::replace(&mut self.delegated, count) != count {
            room.owe(Action::Report(Report::Delegated { service: self.key, endpoints: count }));
        }
    }

    /// A former run had left endpoints here to the stack: those that took nothing new by themselves.
    pub(super) fn formerly_delegated(&self, this: &str) -> BTreeSet<IpAddr> {
        if !self.hands_on() || !self.slots.contains_key(&self.stack()) {
            return BTreeSet::new();
        }
        let here = self.endpoints().filter(|(e, known)| e.node.as_deref() == Some(this) && !known.serving);
        here.map(|(e, _)| e.address).collect()
    }
}

impl Balancer {
    /// All endpoints of this node whose place the driver has looked for and not found, as often as it likes. An address that is missing
    /// has been found, or is nobody's.
    pub fn handle_unplaced(&mut self, addresses: &BTreeSet<IpAddr>, now: Instant) {
        let found = self.nodes.unplaced.tell(addresses, now);
        self.mark_delegating(&found, now);
    }

    /// What a former run could not find is taken for lost until the driver has looked.
    pub(super) fn presume_unplaced(&mut self, addresses: BTreeSet<IpAddr>, now: Instant) {
        let unplaced = &mut self.nodes.unplaced;
        for address in addresses {
            let _since = unplaced.since.entry(address).or_insert(now);
            let _new = unplaced.lost.insert(address);
        }
    }

    pub(super) fn expire_unplaced(&mut self, now: Instant) {
        let over = self.nodes.unplaced.expire(now);
        self.mark_delegating(&over, now);
    }

    pub(super) fn unplaced_timeout(&self) -> Option<Instant> {
        self.nodes.unplaced.poll_timeout()
    }

    fn mark_delegating(&mut self, changed: &BTreeSet<IpAddr>, now: Instant) {
        if changed.is_empty() {
            return;
        }
        let concerns = |s: &Service| s.hands_on() && s.spec.endpoints.iter().any(|e| changed.contains(&e.address));
        let keys: Vec<_> = self.services.iter().filter(|(_, s)| concerns(s)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.mark(key, now));
    }
}
