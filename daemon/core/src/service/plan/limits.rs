//! What there is room for: the maps of the fence and of the data plane have fixed sizes.

use core::fmt;
use core::net::IpAddr;
use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::super::{Delivery, ServiceKey, ServiceSpec};
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

/// What is used up, service by service.
pub(super) struct Used<'a> {
    limits: Limits,
    owners: HashMap<ServiceKey, &'a str>,
    addresses: HashSet<IpAddr>,
    frames: HashSet<(IpAddr, u8)>,
    sources: usize,
}

impl<'a> Used<'a> {
    /// Nothing but what the file has; there will be about so many services.
    pub(super) fn new(policy: &PlanPolicy, services: usize) -> Self {
        let file = "the configuration file";
        let mut used = Self {
            limits: policy.limits,
            owners: HashMap::with_capacity(services + policy.file_services.len()),
            addresses: HashSet::with_capacity(services + policy.taken.len()),
            frames: HashSet::with_capacity(services),
            sources: 0,
        };
        used.addresses.extend(policy.taken.iter().copied());
        for key in &policy.file_services {
            let _none = used.owners.insert(*key, file);
            let _new = used.addresses.insert(key.vip);
            let _new = used.frames.insert((key.vip, key.protocol.number()));
        }
        used
    }

    /// Room for one port of one VIP of the service `name`.
    pub(super) fn take(&mut self, name: &'a str, spec: &ServiceSpec) -> Result<(), Refused> {
        let key = spec.key();
        if let Some(by) = self.owners.get(&key) {
            return Err(Refused::PortTaken { key, by: (*by).to_owned() });
        }
        let steered = spec.delivery != Delivery::None;
        let frame = (key.vip, key.protocol.number());
        let addresses = self.addresses.len() + usize::from(!self.addresses.contains(&key.vip));
        let services = self.owners.len() + usize::from(steered);
        // One frame for each port, one for later fragments of each protocol, one for ICMP of each VIP.
        let kinds = self.frames.len() + usize::from(steered && !self.frames.contains(&frame));
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
        let _new = self.addresses.insert(key.vip);
        if steered {
            let _new = self.frames.insert(frame);
        }
        let _none = self.owners.insert(key, name);
        self.sources = sources;
        Ok(())
    }
}
