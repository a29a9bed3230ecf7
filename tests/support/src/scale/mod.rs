//! A cluster for shows that count and measure: a real API server, nodes with the real daemon that read it, of which one gives addresses, a
//! client outside, and as many Services as are asked for.
//!
//! ```text
//!  client 10.9.0.200 -- LAN 10.9.0.0/16 -- n1, n2, .. 10.9.0.N -- one namespace each with all endpoints of the node, 10.(20+N).64.0/18
//!                        | api 10.9.0.250   rest 10.9.1.N: the nodes of the cluster that run no daemon
//! ```
//! Nodes without a daemon are objects, and addresses that answer ARP: what a daemon knows of them is the same.

mod door;
mod objects;
mod usage;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};

pub use door::{Door, knock};
pub use objects::{Made, endpoint};
pub use usage::{Usage, asked, usage, writes};

use crate::apiserver::{ApiServer, Call, Watch};
use crate::bascule::{Bascule, binary};
use crate::command::{ip, ip_batch};
use crate::forward::{Crew, Hook, write_secret};
use crate::{LabError, Mac, Netns, Result, Sniffer, Stamp, wait_for};

/// Where clients knock.
pub const PORT: u16 = 80;
/// Where endpoints listen.
pub const ENDPOINT_PORT: u16 = 8080;
/// How long anything may take that must happen, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// Writes of the bench under way at once.
pub const WIDTH: usize = 6;
/// What one try of a client waits for: far more than a connection on a LAN takes, far less than TCP's first retransmission.
pub const ATTEMPT: Duration = Duration::from_millis(50);
/// Nodes that the addresses here are made for.
const NODES_MAX: u8 = 100;

const API: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 250);
const ACCOUNT: &str = "system:serviceaccount:bascule-system:bascule";
const MANIFESTS: [&str; 2] = [
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: bascule-system}\n",
    include_str!("../../../../deploy/rbac.yaml"),
];
const POOLS: &str = "/apis/bascule.dev/v1alpha1/vippools";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/bascule-system/leases/bascule-allocator";

/// Everything. Dropped, all of it is gone.
pub struct Scale {
    /// On the LAN.
    pub client: Netns,
    /// The API server.
    pub api: ApiServer,
    /// On the LAN.
    pub sniffer: Sniffer,
    /// Each address that a Service was seen with.
    pub given: Watch<(String, Ipv4Addr)>,
    doors: Vec<Door>,
    /// The host of all nodes without a daemon; it stays as long as this does.
    _rest: Option<Netns>,
    real: u8,
    kubeconfig: PathBuf,
    token: Stamp,
    /// Nodes with a daemon; last, so that it goes after all that stands in it.
    pub crew: Crew,
}

impl Scale {
    /// Builds it and starts the daemons of `real` of `listed` nodes. Returns when one of them gives addresses and all read.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn new(name: &str, real: u8, listed: u8) -> Result<Self> {
        if real > listed || listed > NODES_MAX {
            return Err(LabError::answer(name, format!("{real} of {listed} nodes")));
        }
        let mut crew = Crew::on_lan(name, Hook::Tc)?;
        let (client, _) = crew.lab().host("client", crew.lan(), &[net(Ipv4Addr::new(10, 9, 0, 200))])?;
        let (host, _) = crew.lab().host("api", crew.lan(), &[net(API)])?;
        let api = ApiServer::start(crew.lab(), &host, &[API.into()])?;
        api.install_kinds()?;
        MANIFESTS.into_iter().try_for_each(|text| api.apply(text))?;
        let rest: Vec<IpNet> = (real + 1..=listed).map(|n| net(address(n, real))).collect();
        let rest = if rest.is_empty() { None } else { Some(crew.lab().host("rest", crew.lan(), &rest)?.0) };
        let mut doors = Vec::new();
        for n in 1..=real {
            crew.add(n.into(), &[net(address(n, real))])?;
            doors.push(endpoints_of(&crew, n)?);
        }
        for n in 1..=listed {
            let object = json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": format!("n{n}"), "annotations": {"bascule.dev/node-id": n.to_string()}},
                "status": {"addresses": [{"type": "InternalIP", "address": address(n, real)}]}});
            api.must("POST", "/api/v1/nodes", Some(&object))?;
        }
        let range = json!({"first": "10.9.64.0", "last": "10.9.95.255"});
        let pool = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "VipPool", "metadata": {"name": "all"},
            "spec": {"blocks": {"a": {"range": range}}}});
        api.must("POST", POOLS, Some(&pool))?;
        let token = api.token("bascule-system", "bascule")?;
        for (path, wanted) in [("/api/v1/services", 200), (POOLS, 200), (LEASE, 404)] {
            wait_for(PATIENCE, "the roles to be in force", || {
                api.request_as(&token, "GET", path, None).ok().filter(|(status, _)| *status == wanted)
            })?;
        }
        let kubeconfig = api.kubeconfig("bascule", API.into(), &token)?;
        let given = api.watch("/api/v1/namespaces/shop/services", objects::given)?;
        let sniffer = Sniffer::start(&[crew.lan()], &[])?;
        let mut all =
            Self { client, api, sniffer, given, doors, _rest: rest, real, kubeconfig, token: Stamp::now(), crew };
        for n in 1..=real {
            let config = all.config(n)?;
            all.crew.start(n.into(), &config)?;
        }
        let _leader = all.leader()?;
        all.wait_owned()?;
        Ok(all)
    }

    /// Gives every node with a daemon its share of the shards: whoever starts first has all of them.
    ///
    /// # Errors
    /// When `bascule rebalance` fails, or some node has less than its share for long.
    pub fn spread(&self) -> Result<()> {
        let alive = self.alive();
        let first = alive.first().copied().unwrap_or(1);
        let _moves = self.daemon(first).ctl(&["rebalance"])?;
        // Active ones of a node, and all.
        let shards = |n: u8| {
            let state = self.daemon(n).state().unwrap_or_default();
            let groups = state["groups"].as_array().cloned().unwrap_or_default();
            (groups.iter().filter(|group| group["role"] == "active").count(), groups.len())
        };
        wait_for(PATIENCE, "shards on every node", || {
            let mut counts = alive.iter().map(|n| shards(*n));
            counts.all(|(active, all)| all > 0 && active >= all / alive.len()).then_some(())
        })
    }

    /// Whether what nodes with a daemon send is carried on apart from them: see [`crate::Port::work_apart`].
    ///
    /// # Errors
    /// When the machine's tools refuse.
    pub fn work_apart(&self, apart: bool) -> Result<()> {
        (1..=self.real).try_for_each(|n| {
            let node = self.crew.node(n.into());
            node.port.work_apart(&node.netns, apart)
        })
    }

    fn config(&self, n: u8) -> Result<Value> {
        let directory = self.crew.lab().directory();
        let key = "00112233445566778899aabbccddeeff";
        let (forward, peer) = (directory.join("forward.keys"), directory.join("peer.key"));
        if !peer.exists() {
            write_secret(&forward, &format!("0:{key}\nflow:{key}{key}\n"))?;
            write_secret(&peer, &format!("{key}{key}\n"))?;
        }
        let intent = directory.join(format!("kept-{n}.json"));
        Ok(json!({
            "node": format!("n{n}"), "peers": {"keyFile": peer}, "forwarding": {"keyFile": forward, "hook": "tc"},
            "kubernetes": {"cluster": "lab", "kubeconfig": self.kubeconfig,
                "services": {"intentFile": intent, "drain": "60s", "leaseNamespace": "bascule-system"}},
        }))
    }

    /// Tokens are good for ten minutes.
    ///
    /// # Errors
    /// When the server gives none.
    pub fn refresh(&mut self) -> Result<()> {
        if Stamp::now().since(self.token) > Duration::from_secs(240) {
            let token = self.api.token("bascule-system", "bascule")?;
            self.kubeconfig = self.api.kubeconfig("bascule", API.into(), &token)?;
            self.token = Stamp::now();
        }
        Ok(())
    }

    /// Nodes whose daemon runs.
    pub fn alive(&self) -> Vec<u8> {
        (1..=self.real).filter(|n| self.crew.node((*n).into()).daemon.is_some()).collect()
    }

    /// The daemon of node `n`.
    pub fn daemon(&self, n: u8) -> &Bascule {
        self.crew.daemon(n.into())
    }

    /// The node whose daemon gives addresses.
    ///
    /// # Errors
    /// When there is not one in time.
    pub fn leader(&self) -> Result<u8> {
        let leads = |n: &u8| self.daemon(*n).state().is_ok_and(|state| state["cluster"]["allocator"]["leads"] == true);
        wait_for(PATIENCE, "one that gives addresses", || {
            let all: Vec<u8> = self.alive().into_iter().filter(leads).collect();
            (all.len() == 1).then(|| all[0])
        })
    }

    /// Waits until every shard has one owner.
    ///
    /// # Errors
    /// When one has none in time.
    pub fn wait_owned(&self) -> Result<()> {
        let mut last = Vec::new();
        let active = |n: u8| -> Option<Vec<String>> {
            let state = self.daemon(n).state().ok()?;
            let groups = state["groups"].as_array()?.iter().filter(|group| group["role"] == "active");
            Some(groups.filter_map(|group| group["name"].as_str().map(str::to_owned)).collect())
        };
        let waited = wait_for(PATIENCE, "owners of all shards", || {
            last = self.alive().into_iter().map(active).collect::<Option<Vec<_>>>()?.concat();
            last.sort();
            let count = last.len();
            last.dedup();
            (last.len() == SHARDS && count == SHARDS).then_some(())
        });
        waited.map_err(|error| LabError::answer("the shards", format!("{error}: {last:?}\n{}", self.told())))
    }

    /// The end of what every daemon said, for the message of a failure.
    pub fn told(&self) -> String {
        self.alive().into_iter().map(|n| self.daemon(n).process.tail()).collect::<Vec<_>>().join("\n")
    }

    /// Makes Services and their slices, [`WIDTH`] writes at a time, each slice right after its Service. Gives the moment before the first
    /// write.
    ///
    /// # Errors
    /// When one is refused.
    pub fn make(&self, services: &[Made]) -> Result<Stamp> {
        let calls: Vec<Call> = services.iter().flat_map(Made::calls).collect();
        let began = Stamp::now();
        self.api.many(WIDTH, &calls)?;
        Ok(began)
    }

    /// Like [`Self::make`], one Service begun each `pause`, as far as the API server keeps up. Gives the moments before the first
    /// write and after the last, too.
    ///
    /// # Errors
    /// When one is refused.
    pub fn make_paced(&self, services: &[Made], pause: Duration) -> Result<(Stamp, Stamp)> {
        let calls: Vec<Call> = services.iter().flat_map(Made::calls).collect();
        let (each, began) = (calls.len() / services.len().max(1), Stamp::now());
        let due = |at: usize| Some(began + pause * u32::try_from(at / each.max(1)).unwrap_or(u32::MAX));
        self.api.many_at(WIDTH, &calls, due)?;
        Ok((began, Stamp::now()))
    }

    /// Waits until each of these Services has an address in its status; gives them, with the moment at which each was seen.
    ///
    /// # Errors
    /// When one has none in time.
    pub fn addresses(&self, since: Stamp, services: &[Made]) -> Result<BTreeMap<String, (Stamp, Ipv4Addr)>> {
        let mut last = 0;
        let waited = wait_for(PATIENCE * 4, "an address for each", || {
            let seen = self.given.seen().into_iter().filter(|(at, _)| *at >= since);
            // The first word counts: nothing changes afterwards.
            let all: BTreeMap<String, (Stamp, Ipv4Addr)> =
                seen.rev().map(|(at, (name, address))| (name, (at, address))).collect();
            last = services.iter().filter(|service| all.contains_key(&service.name)).count();
            (last == services.len()).then_some(all)
        });
        waited.map_err(|error| {
            LabError::answer("addresses", format!("{error}: {last} of {}\n{}", services.len(), self.told()))
        })
    }

    /// The first announcement of each address since then, and by whom.
    pub fn announced(&self, since: Stamp) -> BTreeMap<Ipv4Addr, (Stamp, Mac)> {
        let mut first = BTreeMap::new();
        for frame in self.sniffer.frames(since, |frame| frame.out && frame.announces()) {
            if let Some(IpAddr::V4(vip)) = frame.speaks_for() {
                let _earlier = first.entry(vip).or_insert((frame.at, frame.src));
            }
        }
        first
    }

    /// Waits until each of these addresses was announced since then; see [`Self::announced`].
    ///
    /// # Errors
    /// When one is not in time.
    pub fn wait_announced(&self, since: Stamp, vips: &[Ipv4Addr]) -> Result<BTreeMap<Ipv4Addr, (Stamp, Mac)>> {
        let mut missing = 0;
        let waited = wait_for(PATIENCE, "announcements", || {
            let all = self.announced(since);
            missing = vips.iter().filter(|vip| !all.contains_key(vip)).count();
            (missing == 0).then_some(all)
        });
        waited.map_err(|error| {
            LabError::answer("announcements", format!("{error}: {missing} of {} missing\n{}", vips.len(), self.told()))
        })
    }

    /// One new connection from the client to each of these VIPs, tried again until it is taken; gives the endpoints, and the moment of the
    /// last answer.
    ///
    /// # Errors
    /// When one is not taken in time.
    pub fn knock_all(&self, vips: &[Ipv4Addr]) -> Result<(BTreeMap<Ipv4Addr, Ipv4Addr>, Stamp)> {
        let one = |vip: &Ipv4Addr| {
            let to = SocketAddr::new((*vip).into(), PORT);
            let what = format!("{vip} to answer");
            Ok((*vip, wait_for(PATIENCE, &what, || knock(to, ATTEMPT).ok())?))
        };
        let all = self.client.run(|| vips.iter().map(one).collect::<Result<_>>());
        let all =
            all.map_err(|error: LabError| LabError::answer("a client outside", format!("{error}\n{}", self.told())))?;
        Ok((all, Stamp::now()))
    }

    /// Hardware address of node `n`.
    pub fn mac(&self, n: u8) -> Mac {
        self.crew.node(n.into()).port.mac()
    }

    /// Node `n` is dead: its daemon is killed and its cable is out, at the same time.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn kill(&mut self, n: u8) -> Result<Stamp> {
        let node = self.crew.node_mut(n.into());
        let died = Stamp::now();
        node.port.set_up(false)?;
        if let Some(mut daemon) = node.daemon.take() {
            daemon.process.sigkill()?;
        }
        Ok(died)
    }

    /// The events of the daemons in the API server's audit log so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn audit(&self) -> Result<Vec<Value>> {
        Ok(self.api.audit()?.into_iter().filter(|event| event["user"]["username"] == ACCOUNT).collect())
    }

    /// Address of node `n`, as the audit log has it.
    pub fn source(&self, n: u8) -> String {
        address(n, self.real).to_string()
    }

    /// Pins outlive their namespaces: ends the daemons and removes what they left.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn clean(&mut self) -> Result<()> {
        let program = binary()?.display().to_string();
        self.doors.clear();
        for node in &mut self.crew.nodes {
            if let Some(mut daemon) = node.daemon.take() {
                daemon.process.sigkill()?;
            }
            node.netns.tool(&program, &["clean"])?;
        }
        Ok(())
    }
}

/// Shards of a cluster whose configuration says nothing.
const SHARDS: usize = 16;

/// Nodes with a daemon have a host each; the others share one.
const fn address(n: u8, real: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, if n > real { 1 } else { 0 }, n)
}

fn net(address: Ipv4Addr) -> IpNet {
    IpNet::new(address.into(), 16).expect("a prefix of 16 bits")
}

/// A namespace behind node `n` that answers for all of its endpoints.
fn endpoints_of(crew: &Crew, n: u8) -> Result<Door> {
    let node = &crew.node(n.into()).netns;
    node.forward()?;
    let netns = crew.lab().netns(&format!("pods{n}"))?;
    let net = format!("10.{}", 20 + n);
    ip(node, &format!("link add pods type veth peer name eth0 netns {}", netns.full_name()))?;
    let near = [
        format!("addr add {net}.0.1/24 dev pods"),
        "link set pods up".to_owned(),
        // On the link: a daemon finds the namespace of an endpoint by the link of its route.
        format!("route add {net}.64.0/18 dev pods"),
    ];
    let far = [
        format!("addr add {net}.0.2/24 dev eth0"),
        "link set eth0 up".to_owned(),
        format!("route add default via {net}.0.1"),
        format!("route add local {net}.64.0/18 dev lo"),
    ];
    ip_batch(node, &near)?;
    ip_batch(&netns, &far)?;
    Door::open(&netns, ENDPOINT_PORT)
}
