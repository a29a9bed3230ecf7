//! What there is room for: the maps of the fence and of the data plane have fixed sizes.

use core::fmt;
use core::net::IpAddr;
use std::collections::HashMap;

use serde::Serialize;

use super::super::{Delivery, Protocol, ServiceKey, ServiceSpec};
use super::{PlanPolicy, Refused};

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

/// A port of a VIP, and whose it is.
type Port<'a> = (u16, Protocol, &'a str);

/// What is used of one address.
#[derive(Default)]
struct Address<'a> {
    /// Mostly there is one.
    first: Option<Port<'a>>,
    more: Vec<Port<'a>>,
    /// Protocols with a frame, by the bits of [`bit`].
    steered: u8,
}

impl<'a> Address<'a> {
    fn owner(&self, port: u16, protocol: Protocol) -> Option<&'a str> {
        let mut all = self.first.iter().chain(&self.more);
        all.find(|(p, of, _)| (*p, *of) == (port, protocol)).map(|(_, _, by)| *by)
    }

    fn give(&mut self, port: Port<'a>) {
        if self.first.is_none() {
            self.first = Some(port);
        } else {
            self.more.push(port);
        }
    }
}

const fn bit(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 1,
        Protocol::Udp => 2,
        Protocol::Sctp => 4,
    }
}

/// What is used up, service by service.
pub(super) struct Used<'a> {
    limits: Limits,
    addresses: HashMap<IpAddr, Address<'a>>,
    /// Ports of all addresses, and frames but those of ports and of ICMP.
    ports: usize,
    kinds: usize,
    sources: usize,
}

impl<'a> Used<'a> {
    /// Nothing but what the file has; there will be about so many services.
    pub(super) fn new(policy: &PlanPolicy, services: usize) -> Self {
        let mut addresses = HashMap::with_capacity(services + policy.taken.len());
        addresses.extend(policy.taken.iter().map(|address| (*address, Address::default())));
        let mut used = Self { limits: policy.limits, addresses, ports: 0, kinds: 0, sources: 0 };
        for key in &policy.file_services {
            used.give(key, "the configuration file", true);
        }
        used
    }

    fn give(&mut self, key: &ServiceKey, name: &'a str, steered: bool) {
        let address = self.addresses.entry(key.vip).or_default();
        address.give((key.port, key.protocol, name));
        self.ports += 1;
        if steered && address.steered & bit(key.protocol) == 0 {
            address.steered |= bit(key.protocol);
            self.kinds += 1;
        }
    }

    /// Room for one port of one VIP of the service `name`.
    pub(super) fn take(&mut self, name: &'a str, spec: &ServiceSpec) -> Result<(), Refused> {
        let key = spec.key();
        let address = self.addresses.get(&key.vip);
        if let Some(by) = address.and_then(|address| address.owner(key.port, key.protocol)) {
            return Err(Refused::PortTaken { key, by: by.to_owned() });
        }
        let steered = spec.delivery != Delivery::None;
        let known = address.is_some_and(|address| address.steered & bit(key.protocol) != 0);
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
        self.give(&key, name, steered);
        self.sources = sources;
        Ok(())
    }
}
