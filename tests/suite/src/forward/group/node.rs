//! One node of a group: its balancer, and the maps that its actions fill.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bascule_core::balance::io::{RecoveredService, ServiceSlot, Table as Lies};
use bascule_core::balance::rows::Row as BuiltRow;
use bascule_core::balance::{Action, Balancer, Config, Health, Limits, Recovered};
use bascule_core::service::EndpointId;
use bascule_core::time::Instant;
use bascule_ebpf_common::forward::{NODE_DEAD, Row, Table, Tally};

use super::{VIP, key, name};
use crate::forward::model::{Clock, State};
use crate::forward::text::{Keys, World};

/// The device frames arrive on.
pub(super) const DEVICE: u32 = 11;
/// Where this node's one row over endpoints lies: behind every table that the balancer makes.
const LOCAL: u32 = 1 << 22;
/// An answer to a check takes so long.
const ANSWERS: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(super) struct Node {
    balancer: Balancer,
    /// What the balancer said of the first level last.
    table: Option<(ServiceSlot, Lies)>,
    pub(super) state: State,
    /// Names of nodes without power: their endpoints do not answer.
    dark: BTreeSet<String>,
    /// On which node each endpoint of the configuration is, by name.
    homes: BTreeMap<String, String>,
}

impl Node {
    pub(super) fn new(id: u16, all: &[u16], now: Instant) -> Self {
        let (state, _) = maps(id, all, now);
        let balancer = Balancer::new(Limits::default());
        Self { balancer, table: None, state, dark: BTreeSet::new(), homes: BTreeMap::new() }
    }

    /// A new daemon over the same maps.
    pub(super) fn restarted(mut self) -> Self {
        self.balancer = Balancer::new(Limits::default());
        if let Some((slot, nodes)) = self.table {
            let row = |index: u32| self.state.rows.get(&index).copied().unwrap_or_default();
            let node_rows = (0..u32::from(nodes.rows)).map(|i| built(row(nodes.base + i))).collect();
            let service = RecoveredService {
                slot,
                key: key(),
                nodes,
                node_rows,
                endpoints: Lies::default(),
                endpoint_rows: Vec::new(),
            };
            self.balancer.handle_recovered(Recovered { services: vec![service], ..Recovered::default() });
        }
        self
    }

    pub(super) fn config(&mut self, config: Config, now: Instant) {
        let endpoints = config.services.iter().flat_map(|service| service.endpoints.iter());
        self.homes = endpoints.filter_map(|e| Some((e.name.clone(), e.node.as_deref()?.to_owned()))).collect();
        self.balancer.handle_config(config, now);
        self.drive(now);
    }

    /// Node `other` is heard or is not; `powered`: its endpoints answer.
    pub(super) fn hear(&mut self, other: u16, heard: bool, powered: bool, now: Instant) {
        let other = name(other);
        if powered {
            let _lit = self.dark.remove(&other);
        } else {
            let _new = self.dark.insert(other.clone());
        }
        self.balancer.handle_node(&other, heard, now);
        self.drive(now);
    }

    pub(super) fn health(&mut self, endpoint: &EndpointId, health: Health, now: Instant) {
        if health == Health::Ready {
            self.balancer.handle_answer_time(endpoint, ANSWERS);
        }
        self.balancer.handle_endpoint_health(endpoint, health, now);
        self.drive(now);
    }

    pub(super) fn run(&mut self, until: Instant) {
        while let Some(at) = self.balancer.poll_timeout().filter(|at| *at <= until) {
            self.balancer.handle_expire(at);
            self.drive(at);
        }
    }

    /// The row of the first level at `index`, as people read it.
    pub(super) fn row(&self, index: u32) -> Row {
        let base = self.table.map_or(0, |(_, table)| table.base);
        self.state.rows.get(&(base + index)).copied().unwrap_or_default()
    }

    /// Packets that ended here because nobody knew them.
    pub(super) fn orphans(&self) -> u64 {
        self.state.tallies.get(&(Tally::Orphan as u32)).copied().unwrap_or(0)
    }

    fn drive(&mut self, now: Instant) {
        while let Some(action) = self.balancer.poll_action() {
            match action {
                Action::WriteRows { base, rows } => {
                    for (index, row) in (base..).zip(rows.iter()) {
                        let row = Row { home: row.home, previous: row.previous, older: row.older, stamp: row.stamp };
                        let _old = self.state.rows.insert(index, row);
                    }
                }
                Action::SwapNodes { slot, table } => {
                    self.table = Some((slot, table));
                    let word = Table { base: table.base, rows: table.rows, epoch: table.epoch }.word();
                    self.state.services.entry(1).or_default().nodes = word;
                }
                Action::PutService { entry, .. } => {
                    self.state.services.entry(1).or_default().drain_minutes = entry.drain_minutes;
                }
                Action::PutNode(entry) => {
                    let node = self.state.nodes.entry(entry.spec.id).or_default();
                    node.flags = node.flags & !NODE_DEAD | if entry.dead { NODE_DEAD } else { 0 };
                }
                Action::Ask { inquiry, endpoint, .. } => {
                    let answers = self.answers(&endpoint);
                    self.balancer.handle_witness(inquiry, answers, now);
                }
                _ => {}
            }
        }
    }

    /// Does the node of an endpoint have power?
    fn answers(&self, endpoint: &EndpointId) -> bool {
        self.homes.get(&endpoint.endpoint).is_some_and(|home| !self.dark.contains(home))
    }
}

fn built(row: Row) -> BuiltRow {
    BuiltRow { home: row.home, previous: row.previous, older: row.older, stamp: row.stamp }
}

/// The maps of a node before its daemon writes to them, and what tags are made with.
pub(super) fn maps(id: u16, all: &[u16], now: Instant) -> (State, Keys) {
    let [a, b, c, d] = VIP;
    let mut world = World::new(clock(now), vec![("up".to_owned(), DEVICE)], 3);
    let mut lines = vec![
        format!(
            "config node {id} site 0 address4 10.0.0.{id} port 7846 key 0 orphans 1000000 icmp 0 idle 60 \
             flow-key 000102030405060708090a0b0c0d0e0f"
        ),
        "key 0 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf".to_owned(),
        format!("service 1 vip {a}.{b}.{c}.{d}:80/tcp nodes 0+0@0 endpoints {LOCAL}+{}@1", u8::from(id > 10)),
        format!("row {LOCAL} 1 0 0"),
        format!("endpoint 1 10.1.250.{id}:8080/tcp"),
    ];
    for other in all {
        lines.push(format!(
            "node {other} at 10.0.0.{other} dev up mac 02:00:00:00:00:{id:02} next 02:00:00:00:00:{other:02} mtu 1600"
        ));
        lines.push(format!("peer 10.0.0.{other} {other}"));
    }
    for line in &lines {
        world.line(line).expect("a line as the fixtures have them");
    }
    let keys = world.keys();
    (world.state, keys)
}

/// The programs' clock.
pub(super) fn clock(now: Instant) -> Clock {
    Clock { seconds: u32::try_from(now.as_nanos() / 1_000_000_000).unwrap_or(u32::MAX) }
}
