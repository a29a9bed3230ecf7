//! Debian's etcd in a namespace: a member that speaks TLS with client certificates to the electors, and plain HTTP to the lab's own
//! `etcdctl` on its loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::pki::{Authority, Pair};
use crate::{Lab, LabError, Netns, Process, Result, wait_for};

/// Where a member listens for clients.
pub const PORT: u16 = 2379;
/// Where it listens for the other members.
const PEER_PORT: u16 = 2380;
/// From start to the first answer, or to another leader, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Where `etcdctl` finds it.
const LOCAL: &str = "--endpoints=http://127.0.0.1:2379";

/// Where a member keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// On a tmpfs that goes away with the process.
    Memory,
    /// On disk, for a member that is started again.
    Disk,
}

/// A running member.
#[derive(Debug)]
pub struct Member {
    /// The program.
    pub process: Process,
    netns: Netns,
    args: Vec<String>,
    data: Data,
}

/// Name and address of each member.
pub type Cluster<'a> = [(&'a str, IpAddr)];

impl Member {
    /// Starts the member number `me` of `cluster` in `netns`. Whoever comes with a certificate of `authority` may ask it. Wait for its
    /// answer with [`Member::wait_ready`], as soon as a majority of the members is started.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        lab: &Lab,
        netns: &Netns,
        cluster: &Cluster<'_>,
        me: usize,
        data: Data,
        authority: &Authority,
    ) -> Result<Self> {
        let (name, address) = cluster[me];
        let pair = authority.sign(&format!("etcd-{name}"), name, &[address, IpAddr::V4(Ipv4Addr::LOCALHOST)])?;
        let directory = match data {
            Data::Memory => PathBuf::from("/run/etcd"),
            Data::Disk => lab.directory().join(format!("etcd-{name}")),
        };
        let args = args(cluster, me, &directory, &authority.ca, &pair);
        let process = spawn(lab, netns, data, &args)?;
        Ok(Self { process, netns: netns.clone(), args, data })
    }

    /// Starts it anew on the data that it left; only with [`Data::Disk`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, lab: &Lab) -> Result<()> {
        assert_eq!(self.data, Data::Disk, "its data went away with the process");
        self.process = spawn(lab, &self.netns, self.data, &self.args)?;
        Ok(())
    }

    /// Waits until it answers, which it does when the cluster has a leader.
    ///
    /// # Errors
    /// When it does not, or ends.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ready = wait_for(START, "etcd to answer", || {
            if !self.process.alive() {
                return Some(false);
            }
            self.etcdctl(&["get", "lab"]).is_ok().then_some(true)
        });
        match ready {
            Ok(true) => Ok(()),
            _ => Err(LabError::answer("etcd is not ready", format!("its output:\n{}", self.process.tail()))),
        }
    }

    /// Runs `etcdctl` on this member alone.
    ///
    /// # Errors
    /// When it fails.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        let all: Vec<&str> = [LOCAL, "--dial-timeout=1s", "--command-timeout=2s"].iter().chain(args).copied().collect();
        self.netns.tool("etcdctl", &all)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let value = self.etcdctl(&["get", key, "--print-value-only"])?;
        Ok(Some(value.trim_end().to_owned()).filter(|value| !value.is_empty()))
    }

    /// Its own word for revision and leader: the revision of the store, and whether it leads.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn status(&self) -> Result<(u64, bool)> {
        let text = self.etcdctl(&["endpoint", "status", "--write-out=json"])?;
        let all: Value =
            serde_json::from_str(&text).map_err(|e| LabError::answer("etcdctl", format!("{e}: {text}")))?;
        let status = &all[0]["Status"];
        let leads = status["leader"] == status["header"]["member_id"];
        let revision = status["header"]["revision"].as_u64();
        Ok((revision.ok_or_else(|| LabError::answer("etcdctl", text.clone()))?, leads))
    }
}

/// Hands the lead to the last of these members, and waits until it has it.
///
/// # Errors
/// When it does not come to lead.
pub fn lead_by_last(members: &[Member]) -> Result<()> {
    let last = members.last().ok_or_else(|| LabError::answer("etcd", "it has no member"))?;
    let text = last.etcdctl(&["endpoint", "status", "--write-out=json"])?;
    let told: Value = serde_json::from_str(&text).map_err(|e| LabError::answer("etcdctl", format!("{e}: {text}")))?;
    let id = told[0]["Status"]["header"]["member_id"].as_u64();
    let id = id.map(|id| format!("{id:x}")).ok_or_else(|| LabError::answer("etcdctl", text))?;
    wait_for(START, "the last member to lead", || {
        if last.status().ok()?.1 {
            return Some(());
        }
        for member in members {
            if member.status().is_ok_and(|(_, leads)| leads) {
                // Refused while it is electing; asked again.
                let _ = member.etcdctl(&["move-leader", &id]);
            }
        }
        None
    })
}

fn spawn(lab: &Lab, netns: &Netns, data: Data, args: &[String]) -> Result<Process> {
    let process = lab.process("etcd", netns, "/usr/bin/etcd").args(args.to_vec());
    match data {
        Data::Memory => process.private_run().spawn(),
        Data::Disk => process.spawn(),
    }
}

fn args(cluster: &Cluster<'_>, me: usize, directory: &Path, ca: &Path, pair: &Pair) -> Vec<String> {
    let (name, address) = cluster[me];
    let pair_of = |flag: &str, value: &str| format!("--{flag}={value}");
    let path = |flag: &str, path: &Path| format!("--{flag}={}", path.display());
    let peer_url = |address| format!("http://{}", SocketAddr::new(address, PEER_PORT));
    let members: Vec<String> = cluster.iter().map(|(name, at)| format!("{name}={}", peer_url(*at))).collect();
    let client = format!("https://{}", SocketAddr::new(address, PORT));
    vec![
        path("data-dir", directory),
        pair_of("name", name),
        pair_of("listen-client-urls", &format!("{client},http://127.0.0.1:{PORT}")),
        pair_of("advertise-client-urls", &client),
        pair_of("listen-peer-urls", &peer_url(address)),
        pair_of("initial-advertise-peer-urls", &peer_url(address)),
        pair_of("initial-cluster", &members.join(",")),
        path("cert-file", &pair.certificate),
        path("key-file", &pair.key),
        path("trusted-ca-file", ca),
        "--client-cert-auth".to_owned(),
        // Twice the defaults: a busy machine must not make it doubt its leader.
        pair_of("heartbeat-interval", "200"),
        pair_of("election-timeout", "2000"),
        pair_of("logger", "zap"),
        pair_of("log-level", "warn"),
    ]
}
