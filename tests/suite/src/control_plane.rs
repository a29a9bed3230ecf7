//! Three control-plane nodes, each with a kube-apiserver of its own over one etcd, behind one VIP; a client outside. What the daemons are
//! told is what `bascule render static-pod --for kubeadm` prints.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::apiserver::{PORT as API, SharedStore, TlsClient};
use bascule_lab::{Netns, Pod, Port, Process, Stamp, sleep_until, tool, wait_for};
use serde_json::{Value, json};

use crate::cluster::{Cluster, SOON, VIP};

/// Nodes.
pub const NODES: usize = 3;
/// Three API servers that start at once on two cores, beside other tests.
const START: Duration = Duration::from_secs(240);
/// What a client waits for one answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// From one request of the client to the next.
const PACE: Duration = Duration::from_millis(100);
/// Where the client asks.
const DOOR: SocketAddr = SocketAddr::new(VIP, API);
/// Answered by a server that lives, whatever becomes of its store, to everybody.
const ALIVE: &str = "/livez?exclude=etcd";
/// The group that `render` names.
const GROUP: &str = "control-plane";

/// The control plane.
pub struct ControlPlane {
    /// The API servers, by node.
    pub servers: Vec<Option<Process>>,
    /// A client outside.
    pub client: TlsClient,
    store: SharedStore,
    _store_host: (Netns, Port),
    /// The LAN and the daemons; last, so that they outlive what runs in their namespaces.
    pub cluster: Cluster,
}

/// What a boot and its faults cost.
#[derive(Debug, Clone, Copy)]
pub struct Costs {
    /// From the start of the first daemon to the first answer of a host behind the VIP, with no API server anywhere.
    pub boot: Duration,
    /// From SIGKILL of the owner's API server to an answer of another one through the VIP.
    pub takeover: Duration,
    /// Owners that lost the VIP while the store stood still.
    pub moves: usize,
    /// Requests that failed meanwhile.
    pub refused: usize,
}

fn address(n: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, u8::try_from(n).expect("a small number")))
}

/// The configuration that `render` puts into the manifest for kubeadm.
fn rendered(key: &std::path::Path) -> Result<Value> {
    let program = bascule_lab::bascule::binary()?.display().to_string();
    let (vip, key) = (VIP.to_string(), key.display().to_string());
    let args = ["render", "static-pod", "--for", "kubeadm", "--vip", &vip, "--vrid", "51", "--nodes", "n1,n2,n3"];
    let rest = ["--unicast-peers", "10.9.0.1,10.9.0.2,10.9.0.3", "--key-file", &key, "--image", "x"];
    let text = tool(None, &program, &[&args[..], &rest[..]].concat(), None)?;
    let config = bascule_lab::documents(&Pod::of_static(&text)?.config)?;
    config.into_iter().next().context("an empty configuration")
}

impl ControlPlane {
    /// Boots it: the first daemon alone, then the API servers, then the other daemons. Gives what the boot took.
    ///
    /// # Errors
    /// When something does not come up, or the VIP moves meanwhile.
    pub fn boot(name: &str) -> Result<(Self, Duration)> {
        let mut cluster = Cluster::new(name, u8::try_from(NODES)?)?;
        let keyed = cluster.config(1, &[])?;
        let key = keyed["peers"]["keyFile"].as_str().context("a key file")?;
        let config = rendered(key.as_ref())?;
        let of_node = |n: usize| {
            let mut config = config.clone();
            config["node"] = json!(format!("n{n}"));
            config
        };
        let prober = cluster.probe(VIP)?;
        cluster.start(1, &of_node(1))?;
        let started = cluster.daemon(1).process.started;
        prober.wait_answer(SOON, started, Some(1))?;
        let boot = Stamp::now().since(started);

        let store_host = cluster.lab.host("etcd", &cluster.lan, &["10.9.0.50/24".parse()?])?;
        let reached: Vec<IpAddr> = (1..=NODES).map(address).chain([VIP]).collect();
        let store = SharedStore::start(&cluster.lab, &store_host.0, address(50), NODES, &reached)?;
        let client = store.client(&cluster.client)?;
        let mut all = Self { servers: Vec::new(), client, store, _store_host: store_host, cluster };
        let first = all.owners();
        ensure!(matches!(first[..], [(1, _)]), "not n1 alone: {first:?}");
        // As kubeadm does: the first node is whole before others join. A healthy node takes the VIP from one whose API server is not there yet.
        for n in 1..=NODES {
            let server = all.store.serve(&all.cluster.lab, &all.cluster.hosts[n - 1].netns, n)?;
            all.servers.push(Some(server));
            if n == 1 {
                all.wait_healthy(1)?;
            }
        }
        for n in 2..=NODES {
            all.cluster.start(n, &of_node(n))?;
            all.cluster.daemon(n).wait_role(SOON, GROUP, "backup")?;
        }
        for n in 2..=NODES {
            all.wait_healthy(n)?;
        }
        let joined = all.owners();
        ensure!(joined == first, "the VIP moved while nodes joined: {first:?}, then {joined:?}");
        let first = wait_for(SOON, "an answer through the VIP", || all.client.get(DOOR, ALIVE, PATIENCE).ok())?;
        ensure!((first.server, first.status) == (1, 200), "{first:?} is not the owner's server");
        Ok((all, boot))
    }

    /// The gate of node `n` on its own API server is open.
    fn wait_healthy(&mut self, n: usize) -> Result<()> {
        let daemon = self.cluster.daemon(n);
        let what = format!("n{n} to see its API server");
        let seen = wait_for(START, &what, || (daemon.group(GROUP)?["healthy"] == true).then_some(()));
        if let Err(error) = seen {
            let tail = self.servers[n - 1].as_ref().map(Process::tail).unwrap_or_default();
            anyhow::bail!("{error}; its API server's output:\n{tail}\nthe store's:\n{}", self.store.etcd.tail());
        }
        Ok(())
    }

    /// Every owner with its term.
    fn owners(&self) -> Vec<(usize, u64)> {
        let hosts = (1..).zip(&self.cluster.hosts);
        let groups = hosts.filter_map(|(n, host)| Some((n, host.daemon.as_ref()?.group(GROUP)?)));
        let owners = groups.filter(|(_, group)| group["role"] == "active");
        owners.map(|(n, group)| (n, group["term"].as_u64().unwrap_or_default())).collect()
    }

    /// SIGKILL to the API server of node `n`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, n: usize) -> Result<Stamp> {
        Ok(self.servers[n - 1].take().context("no API server there")?.sigkill()?)
    }

    /// Starts the API server of node `n` anew and waits until its daemon sees it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self, n: usize) -> Result<()> {
        self.servers[n - 1] = Some(self.store.serve(&self.cluster.lab, &self.cluster.hosts[n - 1].netns, n)?);
        self.wait_healthy(n)
    }

    /// Kills the owner's API server, lets the client find another, then stops the store for `outage`.
    ///
    /// # Errors
    /// When nobody takes over.
    pub fn faults(&mut self, boot: Duration, outage: Duration) -> Result<Costs> {
        let killed = self.kill(1)?;
        let answer = wait_for(SOON, "another API server behind the VIP", || {
            self.client.get(DOOR, ALIVE, PATIENCE).ok().filter(|answer| answer.status == 200)
        })?;
        let takeover = Stamp::now().since(killed);
        ensure!(answer.server != 1, "a dead server answered");
        let before = self.owners();
        let [(owner, _)] = before[..] else { anyhow::bail!("not one owner: {before:?}") };
        ensure!(owner == answer.server, "server {} answered, and n{owner} owns the VIP", answer.server);

        self.store.etcd.stop();
        let (end, mut refused) = (Stamp::now() + outage, 0);
        while Stamp::now() < end {
            let served = self.client.get(DOOR, ALIVE, PATIENCE);
            refused += usize::from(!served.is_ok_and(|answer| (answer.server, answer.status) == (owner, 200)));
            sleep_until(Stamp::now() + PACE);
        }
        let after = self.owners();
        self.store.etcd.cont();
        let moves = before.iter().filter(|owner| !after.contains(owner)).count() + after.len().saturating_sub(1);
        Ok(Costs { boot, takeover, moves, refused })
    }

    /// Lets every node balance the VIP's connections over the API servers of all nodes.
    ///
    /// # Errors
    /// When a daemon does not come to know three healthy endpoints.
    pub fn balance(&mut self) -> Result<()> {
        let keys = self.cluster.lab.directory().join("forward.keys");
        std::fs::write(&keys, "0:00112233445566778899aabbccddeeff\nflow:ffeeddccbbaa99887766554433221100\n")?;
        std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let names = 1..=NODES;
        let node = |n: usize| json!({ "name": format!("n{n}"), "id": n, "addresses": [address(n)] });
        let endpoint = |n: usize| json!({ "address": address(n), "port": API, "node": format!("n{n}") });
        let peer = self.cluster.config(1, &[])?;
        let key = peer["peers"]["keyFile"].as_str().context("a key file")?;
        for n in 1..=NODES {
            let mut config = rendered(key.as_ref())?;
            config["node"] = json!(format!("n{n}"));
            config["forwarding"] =
                json!({ "keyFile": keys, "hook": "tc", "nodes": names.clone().map(node).collect::<Vec<_>>() });
            config["services"] = json!([{
                "name": "api", "vip": VIP, "port": API, "endpoints": names.clone().map(endpoint).collect::<Vec<_>>(),
                "check": {
                    "https": { "path": ALIVE, "expect": 200, "insecureSkipVerify": true },
                    "interval": "500ms", "timeout": "500ms", "rise": 1, "fall": 2,
                },
            }]);
            self.cluster.daemon(n).rewrite(&config)?;
        }
        for n in 1..=NODES {
            self.wait_endpoints(n, NODES)?;
        }
        Ok(())
    }

    /// Waits until node `n` sends new connections to exactly `healthy` endpoints, and its programs stand.
    ///
    /// # Errors
    /// When that does not come about; what it says of them is in the error.
    pub fn wait_endpoints(&mut self, n: usize, healthy: usize) -> Result<()> {
        let daemon = self.cluster.daemon(n);
        let (mut last, mut seen) = (String::new(), 0);
        let found = wait_for(Duration::from_secs(60), "healthy endpoints", || {
            let (_, page) = daemon.get("/services").ok()?;
            let state: Value = serde_json::from_str(&page).ok()?;
            let endpoints = state["balance"]["services"][0]["endpoints"].as_array().cloned().unwrap_or_default();
            seen = endpoints.iter().filter(|e| e["serving"] == true && e["state"] != "unknown").count();
            let rows = state["balance"]["services"][0]["nodes"]["rows"].as_u64().unwrap_or_default();
            last = page;
            (seen == healthy
                && rows > 0
                && state["on"] == true
                && state["devices"].as_array().is_some_and(|d| !d.is_empty()))
            .then_some(())
        });
        found.with_context(|| format!("n{n} sees {seen} of {healthy}: {last}\n{}", daemon.process.tail()))
    }

    /// Opens `count` connections through the VIP: how many each server got.
    ///
    /// # Errors
    /// When one of them is not answered.
    pub fn spread(&self, count: usize) -> Result<[usize; NODES]> {
        let mut got = [0; NODES];
        for _ in 0..count {
            let answer =
                self.client.get(DOOR, ALIVE, Duration::from_secs(5)).context("a connection through the VIP")?;
            ensure!(answer.status == 200, "{answer:?}");
            got[answer.server - 1] += 1;
        }
        Ok(got)
    }

    /// A connection through the VIP to each of the servers, held open.
    ///
    /// # Errors
    /// When one of them is not met in many tries.
    pub fn sessions(&self) -> Result<Vec<bascule_lab::apiserver::Session>> {
        let mut held: Vec<bascule_lab::apiserver::Session> = Vec::new();
        for _ in 0..200 {
            let mut session = self.client.open(DOOR, Duration::from_secs(5))?;
            if held.iter().all(|other| other.server != session.server) {
                ensure!(session.get(ALIVE, false)? == 200, "a session that does not answer");
                held.push(session);
            }
            if held.len() == NODES {
                return Ok(held);
            }
        }
        anyhow::bail!("200 connections met {} servers", held.len())
    }
}
