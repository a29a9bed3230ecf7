//! What there is room for: the maps of the fence and of the data plane have fixed sizes.

use core::fmt;
use core::net::IpAddr;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use super::super::{Delivery, Protocol, ServiceKey, ServiceSpec};
use super::{PlanPolicy, Refused, ServiceStanding};

/// Sizes of maps, and of one message, as far as services can reach them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Addresses that the fence guards.
    pub addresses: usize,
    /// Frames that the fence lets in for the data plane.
    pub frames: usize,
    /// Slots of services and of VIPs in the data plane.
    pub slots: usize,
    /// Source ranges of all services.
    pub sources: usize,
}

/// A limit that a service would exceed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// What of.
    pub what: &'static str,
    /// How much there is.
    pub most: usize,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on a node, at most {}", self.what, self.most)
    }
}

/// A port of a VIP.
#[derive(Debug)]
struct Port {
    port: u16,
    protocol: Protocol,
    /// The data plane has it.
    steered: bool,
    /// Whose it is.
    by: Arc<ServiceStanding>,
}

/// What is used of one address.
#[derive(Debug, Default)]
struct Address {
    /// Mostly there is one.
    first: Option<Port>,
    more: Vec<Port>,
}

impl Address {
    fn ports(&self) -> impl Iterator<Item = &Port> {
        self.first.iter().chain(&self.more)
    }

    fn owner(&self, port: u16, protocol: Protocol) -> Option<&Arc<ServiceStanding>> {
        self.ports().find(|p| (p.port, p.protocol) == (port, protocol)).map(|p| &p.by)
    }

    /// Has it a frame of this protocol?
    fn steers(&self, protocol: Protocol) -> bool {
        self.ports().any(|port| port.steered && port.protocol == protocol)
    }

    fn give(&mut self, port: Port) {
        if self.first.is_none() {
            self.first = Some(port);
        } else {
            self.more.push(port);
        }
    }

    fn give_back(&mut self, port: u16, protocol: Protocol) -> Option<Port> {
        let is = |p: &Port| (p.port, p.protocol) == (port, protocol);
        if self.first.as_ref().is_some_and(is) {
            let last = self.more.pop();
            return std::mem::replace(&mut self.first, last);
        }
        let at = self.more.iter().position(is)?;
        Some(self.more.swap_remove(at))
    }
}

/// What is used up, service by service.
#[derive(Debug)]
pub(super) struct Used {
    limits: Limits,
    /// The configuration file, as the owner of what it has.
    file: Arc<ServiceStanding>,
    addresses: HashMap<IpAddr, Address>,
    /// Ports of all addresses, and frames but those of ports and of ICMP.
    ports: usize,
    kinds: usize,
    sources: usize,
}

impl Used {
    /// Nothing but what the file has; there will be about so many services.
    pub(super) fn new(policy: &PlanPolicy, services: usize) -> Self {
        let mut addresses = HashMap::with_capacity(services + policy.taken.len());
        addresses.extend(policy.taken.iter().map(|address| (*address, Address::default())));
        let name = "the configuration file".to_owned();
        let file = Arc::new(ServiceStanding { name, vips: Vec::new(), refused: Vec::new() });
        let by = Arc::clone(&file);
        let mut used = Self { limits: policy.limits, file, addresses, ports: 0, kinds: 0, sources: 0 };
        for key in &policy.file_services {
            used.give(key, &by, true);
        }
        used
    }

    fn give(&mut self, key: &ServiceKey, by: &Arc<ServiceStanding>, steered: bool) {
        let address = self.addresses.entry(key.vip).or_default();
        self.ports += 1;
        self.kinds += usize::from(steered && !address.steers(key.protocol));
        address.give(Port { port: key.port, protocol: key.protocol, steered, by: Arc::clone(by) });
    }

    /// Room for one port of one VIP of a service.
    pub(super) fn take(&mut self, by: &Arc<ServiceStanding>, spec: &ServiceSpec) -> Result<(), Refused> {
        let key = spec.key();
        let address = self.addresses.get(&key.vip);
        if let Some(by) = address.and_then(|address| address.owner(key.port, key.protocol)) {
            return Err(Refused::PortTaken { key, by: by.name.clone() });
        }
        let steered = spec.delivery != Delivery::None;
        let known = address.is_some_and(|address| address.steers(key.protocol));
        let addresses = self.addresses.len() + usize::from(address.is_none());
        let services = self.ports + usize::from(steered);
        // One frame for each port, one for later fragments of each protocol, one for ICMP of each VIP.
        let kinds = self.kinds + usize::from(steered && !known);
        let sources = self.sources + if steered { spec.sources.len() } else { 0 };
        let Limits { addresses: a, frames: f, slots: s, sources: r } = self.limits;
        for (what, wanted, most) in [
            ("addresses of the fence", addresses, a),
            ("slots of services and VIPs", services + addresses, s),
            ("frames of the fence", services + kinds + addresses, f),
            ("source ranges", sources, r),
        ] {
            if wanted > most {
                return Err(Refused::NoRoom(Limit { what, most }));
            }
        }
        self.give(&key, by, steered);
        self.sources = sources;
        Ok(())
    }

    /// What [`Self::take`] took.
    pub(super) fn give_back(&mut self, spec: &ServiceSpec) {
        let Some(address) = self.addresses.get_mut(&spec.vip) else { return };
        let Some(port) = address.give_back(spec.port, spec.protocol) else { return };
        self.ports -= 1;
        if port.steered {
            self.sources -= spec.sources.len();
            self.kinds -= usize::from(!address.steers(spec.protocol));
        }
        // The file's own are asked for before anything is taken: no service ever had one of those.
        if address.first.is_none() {
            let _gone = self.addresses.remove(&spec.vip);
        }
    }

    /// Has a service of the cluster a port of this address?
    pub(super) fn holds(&self, vip: IpAddr) -> bool {
        let ports = self.addresses.get(&vip).into_iter().flat_map(Address::ports);
        ports.into_iter().any(|port| !Arc::ptr_eq(&port.by, &self.file))
    }
}
