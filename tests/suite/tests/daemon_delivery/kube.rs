//! The yard with nodes that own and forward what a cluster's intent says: VIPs on the LAN, one file of intent that every daemon watches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use bascule_core::intent::{Intent, NodeIntent, ServiceIntent};
use bascule_core::service::translate::{KubePort, KubeService, Slice, SliceEndpoint, SlicePort};
use bascule_core::service::{Affinity, Protocol};
use bascule_core::types::Family;
use bascule_lab::forward::write_secret;
use bascule_lab::wait_for;
use serde_json::{Value, json};

use crate::talk::Talk;
use crate::yard::{ENDPOINT_PORT, Hook, PORT, Pod, Yard};

/// A start and an election, in this test's share of a machine that does other things too.
pub(crate) const START: Duration = Duration::from_secs(120);
/// A change of the intent shows by then.
pub(crate) const SHOWS: Duration = Duration::from_secs(20);
/// Shards of the lab's cluster.
pub(crate) const SHARDS: u8 = 6;

/// The turn of a test that keeps a machine busy for a minute: one such test at a time, whatever runs beside it.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // A test that failed in its turn says so itself.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Three nodes of a cluster.
pub(crate) struct Kube {
    pub(crate) yard: Yard,
    pub(crate) intent: Intent,
    /// The way to an API server, when there is one: then the daemons ask it, and the intent here is only what the test expects.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where the daemons' allocators have their Lease; `None`: they only read.
    pub(crate) lease_namespace: Option<&'static str>,
    /// `nodeSelector` of every node.
    pub(crate) node_selector: &'static [&'static str],
    /// `bfd` of every node.
    pub(crate) bfd: Option<Value>,
    /// Routes are announced in this way and this AS.
    pub(crate) routes: Option<(&'static str, u32)>,
    file: PathBuf,
}

/// VIP `k` of the cluster, on the LAN.
pub(crate) fn vip(k: u8) -> IpAddr {
    [10, 9, 0, 200 + k].into()
}

/// A Service of one TCP and one UDP port with this VIP.
pub(crate) fn service(name: &str, k: u8) -> ServiceIntent {
    let port = |name: &str, protocol| KubePort { name: name.into(), port: PORT, protocol };
    ServiceIntent {
        service: KubeService {
            namespace: "shop".into(),
            name: name.into(),
            labels: BTreeMap::new(),
            class: None,
            vips: vec![vip(k)],
            ports: vec![port("talk", Protocol::Tcp), port("ask", Protocol::Udp)],
            local: false,
            affinity: Affinity::None,
            sources: vec![],
            publish_not_ready: false,
            health_check_node_port: 0,
        },
        slices: vec![],
    }
}

/// A slice of these endpoints at `port`, which stands for both target ports.
pub(crate) fn slice(port: u16, endpoints: Vec<SliceEndpoint>) -> Slice {
    let of = |name: &str, protocol| SlicePort { name: name.into(), port, protocol };
    Slice { family: Family::V4, ports: vec![of("talk", Protocol::Tcp), of("ask", Protocol::Udp)], endpoints }
}

/// A ready endpoint.
pub(crate) fn endpoint(pod: &Pod, n: u8) -> SliceEndpoint {
    let (ready, serving, terminating) = (None, None, None);
    SliceEndpoint { address: pod.addresses[0], ready, serving, terminating, node: Some(format!("n{n}").into()) }
}

impl Kube {
    /// Three nodes without daemons.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let yard = Yard::new(name, 3, Hook::Tc)?;
        let node = |n: u8| {
            let node =
                NodeIntent { id: Some(n.into()), addresses: vec![[10, 9, 0, n].into()], ..NodeIntent::default() };
            (format!("n{n}"), node)
        };
        let intent = Intent { nodes: (1..=3).map(node).collect(), ..Intent::default() };
        let file = yard.crew.lab().directory().join("intent.json");
        Ok(Self {
            yard,
            intent,
            kubeconfig: None,
            lease_namespace: None,
            node_selector: &[],
            bfd: None,
            routes: None,
            file,
        })
    }

    /// The configuration of node `n`, with an intent file of its own where it does not watch the common one.
    pub(crate) fn config(&self, n: u8, api: bool) -> Result<Value> {
        let directory = self.yard.crew.lab().directory().to_owned();
        let key = "00112233445566778899aabbccddeeff";
        let (forward, peer) = (directory.join("forward.keys"), directory.join("peer.key"));
        if !peer.exists() {
            write_secret(&forward, &format!("0:{key}\nflow:{key}{key}\n"))?;
            write_secret(&peer, &format!("{key}{key}\n"))?;
        }
        let (source, file) =
            if api { ("api", directory.join(format!("kept-{n}.json"))) } else { ("file", self.file.clone()) };
        let mut config = json!({
            "node": format!("n{n}"),
            "peers": { "keyFile": peer },
            "forwarding": { "keyFile": forward, "hook": "tc" },
            "kubernetes": {
                "cluster": "lab",
                "services": { "source": source, "intentFile": file, "shards": SHARDS, "drain": "60s" },
            },
        });
        if !self.node_selector.is_empty() {
            config["kubernetes"]["services"]["nodeSelector"] = json!(self.node_selector);
        }
        if let Some(bfd) = &self.bfd {
            config["kubernetes"]["services"]["bfd"] = bfd.clone();
        }
        if let Some((announce, asn)) = self.routes {
            config["bgp"] = json!({ "asn": asn });
            config["kubernetes"]["services"]["announce"] = json!(announce);
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            config["kubernetes"]["kubeconfig"] = json!(kubeconfig);
            config["kubernetes"]["services"]["allocator"] = json!(self.lease_namespace.is_some());
            if let Some(namespace) = self.lease_namespace {
                config["kubernetes"]["services"]["leaseNamespace"] = json!(namespace);
            }
        }
        Ok(config)
    }

    /// Writes the intent as it is now.
    pub(crate) fn tell(&self) -> Result<()> {
        Ok(bascule::intent::file::write(&self.file, &self.intent, SystemTime::now())?)
    }

    /// Tells the intent, starts the daemons of all nodes and waits until every shard has one owner, spread evenly.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.run()?;
        self.wait_owners(|_| true)?;
        let _moves = self.yard.daemon(1).ctl(&["rebalance"])?;
        self.wait_owners(|owners| (1..=3).all(|n| owners.values().filter(|owner| **owner == n).count() == 2))?;
        self.wait_settled()
    }

    /// Tells the intent, starts the daemons of all nodes and waits until they steer by it.
    pub(crate) fn run(&mut self) -> Result<()> {
        self.tell()?;
        for n in 1..=3 {
            let config = self.config(n, self.kubeconfig.is_some())?;
            self.yard.crew.start(n.into(), &config)?;
        }
        for n in 1..=3 {
            self.wait_tables(n)?;
        }
        Ok(())
    }

    /// Waits until no node serves stragglers of a planned move any more: what comes next is a fault by itself, and not one within a move.
    pub(crate) fn wait_settled(&self) -> Result<()> {
        let settled = |node: &crate::yard::CrewNode| {
            let state = node.daemon.as_ref().and_then(|daemon| daemon.state().ok())?;
            state["groups"].as_array()?.iter().all(|group| group["draining"] == false).then_some(())
        };
        let running = || self.yard.crew.nodes.iter().filter(|node| node.daemon.is_some());
        wait_for(SHOWS, "planned moves to be over", || running().all(|node| settled(node).is_some()).then_some(()))?;
        Ok(())
    }

    /// Starts the daemon of node `n` with the intent that a former run kept, and no API server to ask.
    pub(crate) fn start_without_api(&mut self, n: u8) -> Result<()> {
        let kept = self.yard.crew.lab().directory().join(format!("kept-{n}.json"));
        bascule::intent::file::write(&kept, &self.intent, SystemTime::now())?;
        self.start_again(n)
    }

    /// Starts the daemon of node `n`, whose API server is away, with what it kept.
    pub(crate) fn start_again(&mut self, n: u8) -> Result<()> {
        let config = self.config(n, true)?;
        self.yard.crew.start(n.into(), &config)?;
        self.wait_tables(n)
    }

    /// Node `n` steers by the intent as it is now: every served port has a table, with the endpoints that take new connections.
    pub(crate) fn wait_tables(&self, n: u8) -> Result<()> {
        let wanted = self.intent.services.iter().filter(|s| s.service.class.is_none()).count() * 2;
        self.yard.crew.wait_page(n.into(), START, "the tables of the cluster", |page| {
            let services = page["balance"]["services"].as_array();
            let lost =
                |c: &Value| c.as_str().is_some_and(|c| c.contains("no way to") || c.contains("network namespace"));
            page["on"] == true
                && page["devices"][0]["device"] == "eth0"
                && page["conditions"].as_array().is_some_and(|said| !said.iter().any(lost))
                && services.is_some_and(|services| services.len() == wanted)
        })?;
        Ok(())
    }

    /// Which node says that it is Active for each shard; `None` while one has none or two.
    pub(crate) fn owners(&self) -> Option<BTreeMap<String, u8>> {
        let mut owners = BTreeMap::new();
        for node in self.yard.crew.nodes.iter().filter(|node| node.daemon.is_some()) {
            let state = node.daemon.as_ref()?.state().ok()?;
            for group in state["groups"].as_array()?.iter().filter(|group| group["role"] == "active") {
                let twice = owners.insert(group["name"].as_str()?.to_owned(), u8::try_from(node.id).ok()?);
                if twice.is_some() {
                    return None;
                }
            }
        }
        (owners.len() == usize::from(SHARDS)).then_some(owners)
    }

    /// Waits until every shard has one owner and they are as `wanted`.
    pub(crate) fn wait_owners(&self, wanted: impl Fn(&BTreeMap<String, u8>) -> bool) -> Result<BTreeMap<String, u8>> {
        let mut last = None;
        let found = wait_for(START, "owners of all shards", || {
            last = self.owners();
            last.clone().filter(|owners| wanted(owners))
        });
        found.with_context(|| format!("{last:?}\n{}", self.told()))
    }

    /// What every node says, for the message of a failure.
    pub(crate) fn told(&self) -> String {
        let of = |n: &crate::yard::CrewNode| {
            let daemon = n.daemon.as_ref()?;
            Some(format!("{}\n{}", daemon.ctl(&["status"]).unwrap_or_default(), daemon.process.tail()))
        };
        self.yard.crew.nodes.iter().filter_map(of).collect::<Vec<_>>().join("\n")
    }

    /// `count` connections to a VIP, each with bytes both ways; gives the numbers of the pods that answered.
    pub(crate) fn talks(&self, k: u8, count: usize) -> Result<Vec<u8>> {
        let one = |_| Talk::open(&self.yard.client, vip(k), PORT)?.exchange(3_000, 3_000);
        let answers: Result<Vec<u8>> = (0..count).map(one).collect();
        // Who has it by the router's word, and by the nodes'.
        let router = || crate::yard::ip(&self.yard.router, &format!("neigh show {}", vip(k))).unwrap_or_default();
        answers.with_context(|| format!("VIP {}\n{}{}\n{}", vip(k), router(), self.yard.counted(), self.told()))
    }

    /// The Service with this name.
    pub(crate) fn service(&mut self, name: &str) -> Result<&mut ServiceIntent> {
        let found = self.intent.services.iter_mut().find(|service| service.service.name == name);
        found.map(Arc::make_mut).context("a Service")
    }

    /// Puts a Service with its slices into the intent.
    pub(crate) fn add(&mut self, service: ServiceIntent, slices: Vec<Slice>) {
        let slices = slices.into_iter().map(Arc::new).collect();
        self.intent.services.push(Arc::new(ServiceIntent { slices, ..service }));
        self.intent.services.sort_by(|a, b| a.service.name.cmp(&b.service.name));
    }
}

/// The usual port of pods.
pub(crate) fn pods(list: &[(&Pod, u8)]) -> Vec<Slice> {
    vec![slice(ENDPOINT_PORT, list.iter().map(|(pod, n)| endpoint(pod, *n)).collect())]
}

/// None of `answers` came from somebody else.
pub(crate) fn only(answers: &[u8], pods: &[&Pod]) -> Result<()> {
    let stranger = answers.iter().find(|number| !pods.iter().any(|pod| pod.number == **number));
    ensure!(stranger.is_none(), "{answers:?} of {:?}", pods.iter().map(|pod| pod.number).collect::<Vec<_>>());
    Ok(())
}
