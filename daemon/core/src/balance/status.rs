//! What people and metrics see.

use core::net::IpAddr;

use serde::Serialize;

use super::Balancer;
use super::damping::State;
use super::io::{EndpointSlot, ServiceSlot, Table};
use super::rows::Row;
use super::sites::SiteStatus;
use crate::health::GateConfig;
use crate::service::{Delivery, EndpointId, ServiceKey};

/// What was done since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Tables computed or looked through.
    pub builds: u64,
    /// Tables written and swapped in.
    pub swaps: u64,
    /// Rows that got another home.
    pub rows_moved: u64,
    /// Rows that forgot a living home before its time was over: connections there are lost to them.
    pub rows_forgotten: u64,
    /// Endpoints that were asked whether their node lives, and answered.
    pub witnesses_answered: u64,
    /// Endpoints that were asked, and did not.
    pub witnesses_silent: u64,
}

/// The whole.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BalanceStatus {
    /// Services by key.
    pub services: Vec<ServiceStatus>,
    /// Other sites, the nearest first.
    pub sites: Vec<SiteStatus>,
    /// What was done.
    pub counts: Counts,
    /// Rows of the slab.
    pub slab_rows: u32,
    /// How many are taken.
    pub slab_used: u32,
    /// The longest table that fits.
    pub slab_longest: u32,
    /// Free slots of services and of endpoints.
    pub slots_left: (usize, usize),
}

/// A service.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ServiceStatus {
    /// Name.
    pub name: String,
    /// Key.
    pub key: ServiceKey,
    /// Number in the shim.
    pub number: u16,
    /// Slot on this node.
    pub slot: ServiceSlot,
    /// Delivery.
    pub delivery: Delivery,
    /// First level.
    pub nodes: Table,
    /// Second level.
    pub endpoint_table: Table,
    /// Rows of the first level that wait for the drain time before they move.
    pub waiting: u64,
    /// Rows that, within the drain time, were forced to forget a living home.
    pub forgotten: u64,
    /// No endpoint is ready; new connections go to those that were last, if any.
    pub all_unready: bool,
    /// Endpoints here that the stack delivers to, because their place is not found.
    pub delegated: usize,
    /// There was no room for a table.
    pub starved: bool,
    /// Takes no new connections.
    pub draining: bool,
    /// Endpoints in the order of the configuration.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EndpointStatus {
    /// Name.
    pub name: String,
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Node; none: behind a router.
    pub node: Option<String>,
    /// Slot on this node; none: another node's.
    pub slot: Option<EndpointSlot>,
    /// Weight.
    pub weight: u16,
    /// `unknown`, `ready`, `held`, `unready` or `draining`.
    pub state: &'static str,
    /// Takes new connections.
    pub serving: bool,
    /// By way of the stack: its place is not found.
    pub delegated: bool,
}

/// Where a flow goes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Trace {
    /// The service.
    pub service: ServiceKey,
    /// Row of the first level and its number.
    pub nodes: Option<(u32, Row)>,
    /// Row of the second level on this node and its number.
    pub endpoints: Option<(u32, Row)>,
}

impl Balancer {
    /// A snapshot.
    pub fn status(&self) -> BalanceStatus {
        BalanceStatus {
            services: self.services.values().map(|s| self.service_status(s)).collect(),
            sites: self.sites.status(),
            counts: self.counts,
            slab_rows: self.room.slab.rows(),
            slab_used: self.room.slab.used(),
            slab_longest: self.room.slab.longest(),
            slots_left: (self.room.services.left(), self.room.endpoints.left()),
        }
    }

    /// The checks that the driver shall run, with whom they are about. Ask again after each configuration: a check that changed starts anew.
    pub fn checks(&self) -> impl Iterator<Item = (EndpointId, &GateConfig)> {
        self.services.iter().flat_map(|(key, s)| {
            let id = |endpoint: &str| EndpointId { service: *key, endpoint: endpoint.to_owned() };
            s.spec.endpoints.iter().filter_map(move |e| Some((id(&e.name), e.check.as_deref()?)))
        })
    }

    /// The rows that packets with this flow hash meet: the upper half chooses in the first level, the lower half in the second.
    pub fn trace(&self, key: &ServiceKey, hash: u64) -> Option<Trace> {
        let service = self.services.get(key)?;
        let row = |rows: &[Row], hash: u64| {
            let index = ((hash & 0xffff_ffff) * u64::try_from(rows.len()).ok()?) >> 32;
            let row = rows.get(usize::try_from(index).ok()?)?;
            Some((u32::try_from(index).ok()?, *row))
        };
        Some(Trace {
            service: *key,
            nodes: row(&service.nodes.rows, hash >> 32),
            endpoints: row(&service.local.rows, hash),
        })
    }

    fn service_status(&self, service: &super::Service) -> ServiceStatus {
        let spec = &service.spec;
        let endpoint = |(e, known): (&crate::service::EndpointSpec, &super::service::Known)| EndpointStatus {
            name: e.name.clone(),
            address: e.address,
            port: e.port,
            node: e.node.as_deref().map(str::to_owned),
            slot: service.slots.get(&(e.address, e.port)).map(|l| l.slot),
            weight: e.weight,
            state: if self.nodes.endpoint_draining(service, e, known) {
                "draining"
            } else {
                match known.state() {
                    State::Unknown => "unknown",
                    State::Ready => "ready",
                    State::Held(_) => "held",
                    State::Unready => "unready",
                    State::Draining => "draining",
                }
            },
            serving: known.serving,
            delegated: e.node.as_deref() == Some(&self.nodes.this) && service.is_delegated(e, &self.nodes),
        };
        ServiceStatus {
            name: spec.name.clone(),
            key: service.key,
            number: spec.number,
            slot: service.slot,
            delivery: spec.delivery,
            nodes: service.nodes.table,
            endpoint_table: service.local.table,
            waiting: service.nodes.waiting(),
            forgotten: service.forgotten.map_or(0, |(rows, _)| rows),
            all_unready: service.all_unready,
            delegated: service.delegated,
            starved: service.starved,
            draining: self.nodes.service_draining(service),
            endpoints: service.endpoints().map(endpoint).collect(),
        }
    }
}
