//! A group of nodes in virtual time: a balancer makes the tables of each, and the reference model steers packets by them.
//!
//! What the nodes have in common is what they are told: the configuration, who is heard, what checks say. What they remember is their own. A
//! node that boots starts without tables; one whose daemon starts again finds those that its programs go on with.

mod flows;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::balance::{Config, Health};
use bascule_core::health::{GateConfig, ProbeKind};
use bascule_core::service::{
    Affinity, Delivery, EndpointId, EndpointSpec, NodeSpec, Protocol, Return, ServiceKey, ServiceSpec, WhenAllFail,
    WhenUnplaced,
};
use bascule_core::time::Instant;

pub use flows::{Flow, Way};
use node::Node;

/// The service's VIP and port.
const VIP: [u8; 4] = [192, 0, 2, 10];
const PORT: u16 = 80;
/// Its number in the shim.
const NUMBER: u16 = 101;
/// How long previous homes are asked.
const DRAIN: Duration = Duration::from_secs(3600);
/// A time at which every stamp is possible.
const START: Instant = Instant::from_nanos(1_000 * 60_000_000_000);

/// The key of the one service.
fn key() -> ServiceKey {
    ServiceKey { vip: VIP.into(), port: PORT, protocol: Protocol::Tcp }
}

/// An endpoint as the files have it.
#[derive(Clone, Debug)]
struct Pod {
    node: u16,
    draining: bool,
}

/// Balancing nodes 1, 2, .. and homes 11, 12, .. with endpoints.
#[derive(Debug)]
pub struct Group {
    now: Instant,
    /// Every node of the configuration.
    ids: Vec<u16>,
    /// By number; its name is `e<number>`.
    pods: BTreeMap<u32, Pod>,
    next_pod: u32,
    /// Those that have power.
    nodes: BTreeMap<u16, Node>,
    /// Their daemons stand still.
    frozen: BTreeSet<u16>,
    /// Flows that live.
    pub flows: Vec<Flow>,
    next_port: u16,
}

impl Group {
    /// `balancers` nodes without endpoints and `homes` with `pods` each, all up and agreed.
    #[must_use]
    pub fn new(balancers: u16, homes: u16, pods: u32) -> Self {
        let homes = || (1..=homes).map(|i| 10 + i);
        let mut group = Self {
            now: START,
            ids: (1..=balancers).chain(homes()).collect(),
            pods: BTreeMap::new(),
            next_pod: 0,
            nodes: BTreeMap::new(),
            frozen: BTreeSet::new(),
            flows: Vec::new(),
            next_port: 20_000,
        };
        for home in homes() {
            for _ in 0..pods {
                let _number = group.add_pod(home);
            }
        }
        for id in group.ids.clone() {
            let _new = group.nodes.insert(id, Node::new(id, &group.ids, group.now));
        }
        group.tell();
        group.pause(60);
        group
    }

    /// Nodes that have power.
    #[must_use]
    pub fn living(&self) -> Vec<u16> {
        self.nodes.keys().copied().collect()
    }

    /// Nodes that were killed and have not booted.
    #[must_use]
    pub fn dead(&self) -> Vec<u16> {
        self.ids.iter().copied().filter(|id| !self.nodes.contains_key(id)).collect()
    }

    /// Nodes with endpoints, dead or alive.
    #[must_use]
    pub fn homes(&self) -> Vec<u16> {
        self.ids.iter().copied().filter(|id| *id > 10).collect()
    }

    /// Numbers of the endpoints that stand in the files and take new flows.
    #[must_use]
    pub fn serving(&self) -> Vec<u32> {
        self.pods.iter().filter(|(_, pod)| !pod.draining).map(|(number, _)| *number).collect()
    }

    /// The home of an endpoint.
    #[must_use]
    pub fn home_of(&self, pod: u32) -> Option<u16> {
        self.pods.get(&pod).map(|pod| pod.node)
    }

    /// Adds an endpoint; [`Self::reload`] tells of it.
    pub fn add_pod(&mut self, home: u16) -> u32 {
        let number = self.next_pod;
        self.next_pod += 1;
        let _new = self.pods.insert(number, Pod { node: home, draining: false });
        number
    }

    /// Lets an endpoint take no new flows; [`Self::reload`] tells of it.
    pub fn drain(&mut self, pod: u32) {
        if let Some(pod) = self.pods.get_mut(&pod) {
            pod.draining = true;
        }
    }

    /// Takes an endpoint out of the files, which keeps its flows; [`Self::reload`] tells of it.
    pub fn remove(&mut self, pod: u32) {
        let _gone = self.pods.remove(&pod);
    }

    /// All daemons read the files again.
    pub fn reload(&mut self) {
        self.tell();
        self.pause(60);
    }

    /// Power fails: what the node held is gone.
    pub fn kill(&mut self, id: u16) {
        let _gone = self.nodes.remove(&id);
        let _thawed = self.frozen.remove(&id);
        self.flows.retain(|flow| flow.home != id);
        self.hear(id, false);
        self.pause(60);
    }

    /// It starts with nothing of what it had.
    pub fn boot(&mut self, id: u16) {
        let node = Node::new(id, &self.ids, self.now);
        self.start(id, node);
    }

    /// The daemon is killed and starts again; the programs and their maps stay.
    pub fn restart(&mut self, id: u16) {
        self.hear(id, false);
        self.pause(2);
        if let Some(old) = self.nodes.remove(&id) {
            self.start(id, old.restarted());
        }
    }

    fn start(&mut self, id: u16, mut node: Node) {
        node.config(self.config(id), self.now);
        for other in self.ids.iter().filter(|other| **other != id) {
            // Until its sessions are up it knows no better than that they are there.
            let heard = self.nodes.contains_key(other) && !self.frozen.contains(other);
            node.hear(*other, heard, self.nodes.contains_key(other), self.now);
        }
        let _old = self.nodes.insert(id, node);
        self.check();
        self.run(Duration::from_secs(1));
        self.hear(id, true);
        self.pause(60);
    }

    /// Stops a daemon, or lets it go on. Its programs forward meanwhile.
    pub fn freeze(&mut self, id: u16, frozen: bool) {
        if frozen {
            let _new = self.frozen.insert(id);
        } else {
            let _old = self.frozen.remove(&id);
        }
        self.hear(id, !frozen);
        self.pause(60);
    }

    /// Everybody else hears a node, or does not.
    fn hear(&mut self, id: u16, heard: bool) {
        let powered = self.nodes.contains_key(&id);
        for (other, node) in self.nodes.iter_mut().filter(|(other, _)| **other != id) {
            if !self.frozen.contains(other) {
                node.hear(id, heard, powered, self.now);
            }
        }
    }

    /// Time passes; checks come to conclusions after three seconds.
    fn pause(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds.min(3)));
        self.check();
        self.run(Duration::from_secs(seconds.saturating_sub(3).max(1)));
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        for (id, node) in &mut self.nodes {
            if !self.frozen.contains(id) {
                node.run(until);
            }
        }
        self.now = until;
    }

    /// Checks reach the endpoints of nodes that have power.
    fn check(&mut self) {
        let said: Vec<(u32, Health)> = self
            .pods
            .iter()
            .map(|(number, pod)| {
                let health = if self.nodes.contains_key(&pod.node) { Health::Ready } else { Health::Unready };
                (*number, health)
            })
            .collect();
        for (id, node) in &mut self.nodes {
            if !self.frozen.contains(id) {
                said.iter().for_each(|(pod, health)| node.health(&endpoint_id(*pod), *health, self.now));
            }
        }
    }

    fn tell(&mut self) {
        for id in self.living() {
            let config = self.config(id);
            if let Some(node) = self.nodes.get_mut(&id).filter(|_| !self.frozen.contains(&id)) {
                node.config(config, self.now);
            }
        }
    }

    fn config(&self, id: u16) -> Config {
        let node = |id: &u16| NodeSpec {
            name: name(*id),
            id: *id,
            addresses: vec![IpAddr::from([10, 0, 0, u8::try_from(*id).unwrap_or_default()])],
            site: 1,
            draining: false,
        };
        let service = ServiceSpec {
            name: "web".into(),
            number: NUMBER,
            vip: VIP.into(),
            port: PORT,
            protocol: Protocol::Tcp,
            delivery: Delivery::Direct,
            returns: Return::Direct,
            affinity: Affinity::None,
            sources: Vec::new(),
            drain: DRAIN,
            ask: false,
            quic: false,
            when_all_fail: WhenAllFail::Keep,
            when_unplaced: WhenUnplaced::Direct,
            draining: false,
            elsewhere: false,
            endpoints: Arc::new(self.pods.iter().map(|(number, pod)| endpoint(*number, pod)).collect()),
        };
        Config { node: Some(name(id)), nodes: self.ids.iter().map(node).collect(), services: vec![Arc::new(service)] }
    }
}

fn name(id: u16) -> String {
    format!("n{id}")
}

fn endpoint_id(pod: u32) -> EndpointId {
    EndpointId { service: key(), endpoint: format!("e{pod}") }
}

fn endpoint(number: u32, pod: &Pod) -> EndpointSpec {
    let [_, _, high, low] = number.to_be_bytes();
    let address = IpAddr::from([10, 1, high, low]);
    let check = GateConfig {
        name: format!("e{number}"),
        probe: ProbeKind::Tcp((address, 8080).into()),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 1,
        fall: 3,
    };
    EndpointSpec {
        name: check.name.clone(),
        address,
        port: 8080,
        node: Some(name(pod.node).into()),
        weight: 1,
        draining: pod.draining,
        check: Some(Box::new(check)),
    }
}
