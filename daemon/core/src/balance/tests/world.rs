//! A driver in memory: carries out actions and checks what each one promises.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::super::absent::WITNESS_TIMEOUT;
use super::super::io::{
    Action, Config, EndpointEntry, Health, NodeEntry, Recovered, RecoveredEndpoint, RecoveredService, Report,
    ReverseId, ServiceEntry, ServiceSlot, Table,
};
use super::super::rows::Row;
use super::super::sites::SiteEntry;
use super::super::{Balancer, GRACE, Limits};
use crate::health::{GateConfig, ProbeKind};
use crate::service::{
    Affinity, Delivery, EndpointId, EndpointSpec, NodeSpec, Protocol, Return, ServiceKey, ServiceSpec, WhenAllFail,
    WhenUnplaced,
};
use crate::site::SiteId;
use crate::time::Instant;

/// Services as the maps hold them.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) entry: ServiceEntry,
    pub(super) nodes: Table,
    pub(super) endpoints: Table,
    pub(super) sources: BTreeSet<IpNet>,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) balancer: Balancer,
    pub(super) now: Instant,
    pub(super) slab: Vec<Row>,
    pub(super) services: BTreeMap<ServiceSlot, Slot>,
    pub(super) keys: BTreeMap<ServiceKey, ServiceSlot>,
    pub(super) addresses: BTreeMap<IpAddr, ServiceSlot>,
    pub(super) answering: BTreeMap<ServiceSlot, bool>,
    pub(super) endpoints: BTreeMap<u16, EndpointEntry>,
    pub(super) nodes: BTreeMap<u16, NodeEntry>,
    pub(super) sites: BTreeMap<SiteId, SiteEntry>,
    pub(super) nearest: Vec<SiteId>,
    pub(super) reverse: BTreeMap<ReverseId, ServiceKey>,
    pub(super) reports: Vec<Report>,
    /// Questions that nobody has answered yet: inquiry and endpoint.
    pub(super) asked: Vec<(u32, EndpointId)>,
    pub(super) swept: u32,
    /// Actions since the last look.
    pub(super) log: Vec<Action>,
    /// When tables were unlinked.
    unlinked: Vec<(Instant, Table)>,
    unkeyed: BTreeMap<ServiceSlot, Instant>,
}

pub(super) fn start() -> Instant {
    Instant::from_nanos(1_000 * 60_000_000_000)
}

impl World {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            balancer: Balancer::new(limits),
            now: start(),
            slab: vec![Row::default(); usize::try_from(limits.rows).unwrap()],
            services: BTreeMap::new(),
            keys: BTreeMap::new(),
            addresses: BTreeMap::new(),
            answering: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            nodes: BTreeMap::new(),
            sites: BTreeMap::new(),
            nearest: Vec::new(),
            reverse: BTreeMap::new(),
            reports: Vec::new(),
            asked: Vec::new(),
            swept: 0,
            log: Vec::new(),
            unlinked: Vec::new(),
            unkeyed: BTreeMap::new(),
        }
    }

    pub(super) fn with(config: Config) -> Self {
        let mut world = Self::new(Limits { rows: 1 << 16, services: 64, endpoints: 256 });
        world.config(config);
        world.run(Duration::from_millis(20));
        world
    }

    pub(super) fn config(&mut self, config: Config) {
        self.balancer.handle_config(config, self.now);
        self.drive();
    }

    pub(super) fn health(&mut self, service: ServiceKey, endpoint: &str, health: Health) {
        let id = EndpointId { service, endpoint: endpoint.into() };
        self.balancer.handle_endpoint_health(&id, health, self.now);
        self.drive();
    }

    /// A check passed, and how long it took.
    pub(super) fn passes(&mut self, service: ServiceKey, endpoint: &str, took: Duration) {
        let id = EndpointId { service, endpoint: endpoint.into() };
        self.balancer.handle_answer_time(&id, took);
        self.health(service, endpoint, Health::Ready);
    }

    /// Every witness that was asked answers, or none does.
    pub(super) fn witnesses(&mut self, answer: bool) {
        for (inquiry, _) in std::mem::take(&mut self.asked) {
            self.balancer.handle_witness(inquiry, answer, self.now);
            self.drive();
        }
    }

    pub(super) fn node(&mut self, node: &str, up: bool) {
        self.balancer.handle_node(node, up, self.now);
        self.drive();
    }

    /// Lets time pass, meeting every deadline on its time.
    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.balancer.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.balancer.handle_expire(self.now);
            self.drive();
            assert!(self.balancer.poll_timeout().is_none_or(|next| next > self.now), "a deadline that is not met");
        }
        self.now = until;
    }

    pub(super) fn run_s(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    /// What was done since the last call.
    pub(super) fn taken(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.log)
    }

    pub(super) fn rows(&self, table: Table) -> &[Row] {
        let base = usize::try_from(table.base).unwrap();
        &self.slab[base..base + usize::from(table.rows)]
    }

    pub(super) fn slot(&self, key: &ServiceKey) -> &Slot {
        &self.services[&self.keys[key]]
    }

    /// First level of a service.
    pub(super) fn node_rows(&self, key: &ServiceKey) -> &[Row] {
        self.rows(self.slot(key).nodes)
    }

    /// Second level of a service.
    pub(super) fn endpoint_rows(&self, key: &ServiceKey) -> &[Row] {
        self.rows(self.slot(key).endpoints)
    }

    /// Homes and how many rows each has.
    pub(super) fn homes(&self, key: &ServiceKey) -> BTreeMap<u16, usize> {
        count(self.node_rows(key))
    }

    /// Slot of an endpoint by name.
    pub(super) fn endpoint(&self, name: &str) -> u16 {
        *self.endpoints.iter().find(|(_, e)| e.name == name).expect("an endpoint").0
    }

    /// What a daemon finds that comes after this one.
    pub(super) fn pinned(&self) -> Recovered {
        let service = |(key, slot): (&ServiceKey, &ServiceSlot)| {
            let s = &self.services[slot];
            RecoveredService {
                slot: *slot,
                key: *key,
                nodes: s.nodes,
                node_rows: self.rows(s.nodes).to_vec(),
                endpoints: s.endpoints,
                endpoint_rows: self.rows(s.endpoints).to_vec(),
            }
        };
        let endpoint = |(slot, e): (&u16, &EndpointEntry)| RecoveredEndpoint {
            slot: super::super::io::EndpointSlot(*slot),
            service: e.service,
            address: e.address,
            port: e.port,
            ready: e.ready,
        };
        Recovered {
            services: self.keys.iter().map(service).collect(),
            addresses: self.addresses.iter().map(|(vip, slot)| (*slot, *vip, self.answering[slot])).collect(),
            endpoints: self.endpoints.iter().map(endpoint).collect(),
        }
    }

    /// A new daemon over the same maps.
    pub(super) fn restart(mut self, limits: Limits) -> Self {
        self.balancer = Balancer::new(limits);
        self.balancer.handle_recovered(self.pinned());
        self.log.clear();
        self.swept = 0;
        self
    }

    pub(super) fn drive(&mut self) {
        while let Some(action) = self.balancer.poll_action() {
            self.log.push(action.clone());
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::PutService { slot, entry } => {
                let fresh = Slot {
                    entry: entry.clone(),
                    nodes: Table::default(),
                    endpoints: Table::default(),
                    sources: BTreeSet::new(),
                };
                self.services.entry(slot).or_insert(fresh).entry = entry;
            }
            Action::PutKey { key, slot } => {
                assert_eq!(self.services[&slot].entry.key, key);
                let _old = self.keys.insert(key, slot);
            }
            Action::RemoveKey { key } => {
                let slot = self.keys.remove(&key).expect("a key that was put");
                let _none = self.unkeyed.insert(slot, self.now);
                let s = &self.services[&slot];
                self.unlinked.extend([(self.now, s.nodes), (self.now, s.endpoints)]);
            }
            Action::PutAddress { slot, vip } => {
                assert!(!self.services.contains_key(&slot));
                let _old = self.addresses.insert(vip, slot);
            }
            Action::SetAnswering { slot, answering } => {
                let _old = self.answering.insert(slot, answering);
            }
            Action::RemoveAddress { vip } => {
                let slot = self.addresses.remove(&vip).expect("an address that was put");
                let _none = self.unkeyed.insert(slot, self.now);
            }
            Action::ClearService { slot } => {
                assert!(!self.keys.values().chain(self.addresses.values()).any(|s| *s == slot), "{slot:?} is in use");
                let since = self.unkeyed.remove(&slot).unwrap_or(start());
                assert!(self.now >= since + GRACE);
                let _service = self.services.remove(&slot);
            }
            Action::PutSources { slot, add, remove } => {
                let s = self.services.get_mut(&slot).expect("a service that was put");
                s.sources.extend(add);
                remove.iter().for_each(|r| assert!(s.sources.remove(r)));
            }
            Action::WriteRows { base, rows } => self.write(base, &rows),
            Action::SwapNodes { slot, table } => {
                let s = self.services.get_mut(&slot).expect("a service that was put");
                self.unlinked.push((self.now, std::mem::replace(&mut s.nodes, table)));
            }
            Action::SwapEndpoints { slot, table } => {
                let s = self.services.get_mut(&slot).expect("a service that was put");
                self.unlinked.push((self.now, std::mem::replace(&mut s.endpoints, table)));
                let named: BTreeSet<u16> = self.rows(table).iter().flat_map(Row::holders).collect();
                for id in named {
                    assert!(self.endpoints.contains_key(&id), "rows name an endpoint that was not put");
                }
            }
            Action::FreeRows { base, count } => {
                let table = Table { base, rows: u16::try_from(count).unwrap(), epoch: 0 };
                assert!(!self.live().any(|t| overlap(t, table)));
            }
            Action::PutEndpoint { slot, entry } => {
                let _old = self.endpoints.insert(slot.0, entry);
            }
            Action::RemoveEndpoint { slot } => {
                for s in self.services.values().filter(|s| self.keys.contains_key(&s.entry.key)) {
                    assert!(
                        !self.rows(s.endpoints).iter().any(|r| r.holders().any(|h| h == slot.0)),
                        "{slot:?} is named"
                    );
                }
                let _entry = self.endpoints.remove(&slot.0);
            }
            Action::PutNode(entry) => {
                let _old = self.nodes.insert(entry.spec.id, entry);
            }
            Action::RemoveNode { spec } => {
                let _old = self.nodes.remove(&spec.id).expect("a node that was put");
            }
            Action::PutSite(entry) => {
                assert!(entry.gateways.iter().all(|id| self.nodes.get(id).is_some_and(|n| !n.dead)), "{entry:?}");
                let _old = self.sites.insert(entry.spec.site, entry);
            }
            Action::SetNearest(order) => self.nearest = order,
            Action::PutReverse { id, key, .. } => {
                let _old = self.reverse.insert(id, key);
            }
            Action::RemoveReverse { id } => {
                let _old = self.reverse.remove(&id).expect("an entry that was put");
            }
            Action::Ask { inquiry, endpoint, timeout, .. } => {
                assert_eq!(timeout, WITNESS_TIMEOUT);
                self.asked.push((inquiry, endpoint));
            }
            Action::Sweep => self.swept += 1,
            Action::Report(report) => self.reports.push(report),
        }
    }

    fn live(&self) -> impl Iterator<Item = Table> {
        let keyed = self.services.iter().filter(|(slot, _)| self.keys.values().any(|k| k == *slot));
        keyed.flat_map(|(_, s)| [s.nodes, s.endpoints])
    }

    fn write(&mut self, base: u32, rows: &[Row]) {
        let table = Table { base, rows: u16::try_from(rows.len()).unwrap(), epoch: 0 };
        assert!(!self.live().any(|t| overlap(t, table)), "rows in use are written");
        let now = self.now;
        let fresh = |(at, t): &(Instant, Table)| now < *at + GRACE && overlap(*t, table);
        assert!(!self.unlinked.iter().any(fresh), "rows are written that a packet may still read");
        self.unlinked.retain(|(at, _)| now < *at + GRACE);
        let base = usize::try_from(base).unwrap();
        self.slab[base..base + rows.len()].copy_from_slice(rows);
    }
}

fn overlap(a: Table, b: Table) -> bool {
    let end = |t: Table| t.base + u32::from(t.rows);
    a.rows > 0 && b.rows > 0 && a.base < end(b) && b.base < end(a)
}

pub(super) fn count(rows: &[Row]) -> BTreeMap<u16, usize> {
    let mut homes = BTreeMap::new();
    for row in rows {
        *homes.entry(row.home).or_default() += 1;
    }
    homes
}

pub(super) fn key() -> ServiceKey {
    ServiceKey { vip: [10, 9, 0, 100].into(), port: 80, protocol: Protocol::Tcp }
}

pub(super) fn node(id: u16) -> NodeSpec {
    NodeSpec {
        name: format!("n{id}"),
        id,
        addresses: vec![IpAddr::from([10, 0, 0, u8::try_from(id).unwrap()])],
        site: 1,
        draining: false,
    }
}

/// An endpoint without a check: `e1` on `n1` is 10.1.0.1:8080.
pub(super) fn endpoint(number: u8, node: Option<u16>) -> EndpointSpec {
    EndpointSpec {
        name: format!("e{number}"),
        address: IpAddr::from([10, 1, 0, number]),
        port: 8080,
        node: node.map(|n| format!("n{n}").into()),
        weight: 1,
        draining: false,
        check: None,
    }
}

pub(super) fn checked(number: u8, node: Option<u16>) -> EndpointSpec {
    let check = GateConfig {
        name: format!("e{number}"),
        probe: ProbeKind::Tcp(([10, 1, 0, number], 8080).into()),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 2,
        fall: 3,
    };
    EndpointSpec { check: Some(Box::new(check)), ..endpoint(number, node) }
}

/// A TCP service that drains for 10 minutes.
pub(super) fn service(endpoints: Vec<EndpointSpec>) -> ServiceSpec {
    let key = key();
    ServiceSpec {
        name: "web".into(),
        number: 7,
        vip: key.vip,
        port: key.port,
        protocol: key.protocol,
        delivery: Delivery::Direct,
        returns: Return::Direct,
        affinity: Affinity::None,
        sources: Vec::new(),
        drain: Duration::from_secs(600),
        ask: false,
        quic: false,
        when_all_fail: WhenAllFail::Keep,
        when_unplaced: WhenUnplaced::Direct,
        draining: false,
        elsewhere: false,
        endpoints: Arc::new(endpoints),
    }
}

/// This node is `n1`.
pub(super) fn config(nodes: u16, services: Vec<ServiceSpec>) -> Config {
    let services = services.into_iter().map(Arc::new).collect();
    Config { node: Some("n1".into()), nodes: (1..=nodes).map(node).collect(), services }
}

/// `count` nodes with one endpoint each.
pub(super) fn one_each(count: u8) -> Config {
    let endpoints = (1..=count).map(|i| endpoint(i, Some(u16::from(i)))).collect();
    config(u16::from(count), vec![service(endpoints)])
}
