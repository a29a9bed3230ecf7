//! A cluster of etcd, nodes with electors, and one LAN between them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::candidate::{Candidate, PATIENCE, now};
use anyhow::{Context, Result, ensure};
use bascule_core::election::lease::etcd::EtcdConfig;
use bascule_core::election::lease::timing::Timing;
use bascule_core::types::Term;
use bascule_etcd::{Access, Elector, ElectorConfig, Endpoint, TlsFiles};
use bascule_lab::etcd::{Data, Member, PORT};
use bascule_lab::pki::{Authority, Pair};
use bascule_lab::{BridgeOptions, Lab, Netns, Port, wait_for};

/// The key of every scene.
pub const KEY: &str = "/bascule/lease/vip";
/// For multiples of it.
pub const SECOND: Duration = Duration::from_secs(1);

/// All of it.
pub struct Scene {
    /// The electors that were started.
    pub candidates: Vec<Candidate>,
    /// The nodes, each with its port of the LAN.
    pub nodes: Vec<(Netns, Port)>,
    /// The members of the cluster.
    pub members: Vec<Member>,
    /// Whose certificates the members believe.
    pub authority: Authority,
    /// The members, as an elector is told of them.
    pub endpoints: Vec<Endpoint>,
    /// Everything above lies in it, and goes first.
    pub lab: Lab,
}

impl Scene {
    /// Members `e1`.. of one cluster and nodes `n1`.. without electors.
    ///
    /// # Errors
    /// When the lab refuses, or the cluster does not come up.
    pub fn new(name: &str, members: u8, nodes: u8, data: Data) -> Result<Self> {
        let lab = Lab::new(name)?;
        let lan = lab.bridge("lan", &BridgeOptions::default())?;
        let host =
            |name: String, last: u8| lab.host(&name, &lan, &[format!("10.9.0.{last}/24").parse()?]).context(name);
        let hosts = (1..=members).map(|n| host(format!("e{n}"), n)).collect::<Result<Vec<_>>>()?;
        let nodes = (1..=nodes).map(|n| host(format!("n{n}"), 10 + n)).collect::<Result<_>>()?;
        let authority = Authority::create(&lab.directory().join("pki"))?;
        let address = |n: usize| -> IpAddr { [10, 9, 0, u8::try_from(n + 1).expect("there are few")].into() };
        let cluster: Vec<(&str, IpAddr)> =
            hosts.iter().enumerate().map(|(n, (netns, _))| (netns.name(), address(n))).collect();
        let start = |me: usize| Member::start(&lab, &hosts[me].0, &cluster, me, data, &authority);
        let mut members = (0..hosts.len()).map(start).collect::<bascule_lab::Result<Vec<_>>>()?;
        for member in &mut members {
            member.wait_ready()?;
        }
        let endpoint = |(_, address): &(&str, IpAddr)| format!("https://{address}:{PORT}").parse();
        let endpoints = cluster.iter().map(endpoint).collect::<Result<_, _>>()?;
        Ok(Self { candidates: Vec::new(), nodes, members, authority, endpoints, lab })
    }

    /// A certificate for a user of etcd's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn user(&self, file: &str, name: &str) -> Result<TlsFiles> {
        Ok(self.files(self.authority.sign(file, name, &[])?))
    }

    /// What an elector with this certificate reads.
    pub fn files(&self, pair: Pair) -> TlsFiles {
        TlsFiles { ca: self.authority.ca.clone(), certificate: pair.certificate, key: pair.key }
    }

    /// One elector on each node; each begins with another member.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(&mut self, ttl: Duration) -> Result<()> {
        let files = self.user("elector", "elector")?;
        for (n, (netns, _)) in self.nodes.iter().enumerate() {
            let mut endpoints = self.endpoints.clone();
            let count = endpoints.len();
            endpoints.rotate_left(n % count);
            self.candidates.push(start(netns, Access::new(endpoints, Some(files.clone()))?, ttl)?);
        }
        Ok(())
    }

    /// One elector on each node, of an entry that all nodes of one of these groups have together.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_groups(&mut self, groups: &[&str], ttl: Duration) -> Result<()> {
        let files = self.user(&format!("elector-{}", self.candidates.len()), "elector")?;
        for ((netns, _), group) in self.nodes.iter().zip(groups) {
            let access = Access::new(self.endpoints.clone(), Some(files.clone()))?;
            self.candidates.push(start_joint(netns, access, ttl, group)?);
        }
        Ok(())
    }

    /// Waits until one of them owns that `allowed` names; its index.
    ///
    /// # Errors
    /// When none does.
    pub fn owner(&self, allowed: impl Fn(usize) -> bool) -> Result<usize> {
        let owner = || (0..self.candidates.len()).find(|i| allowed(*i) && self.candidates[*i].owns());
        wait_for(PATIENCE, "an owner", owner).with_context(|| {
            let words: Vec<_> =
                self.candidates.iter().map(|c| c.words().into_iter().rev().take(6).collect::<Vec<_>>()).collect();
            format!("they said {words:?}")
        })
    }

    /// Stops all electors in their order.
    ///
    /// # Errors
    /// When one does not end.
    pub fn stop_all(&mut self) -> Result<()> {
        self.candidates.iter_mut().try_for_each(Candidate::stop)
    }

    /// The key's value.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn value(&self) -> Result<Option<String>> {
        Ok(self.members[0].get(KEY)?)
    }
}

/// An elector in `netns`, with the namespace's name as its identity.
///
/// # Errors
/// When it cannot be started.
pub fn start(netns: &Netns, access: Access, ttl: Duration) -> Result<Candidate> {
    let name = netns.name();
    let config = config(name, format!("{name}/boot-of-{name}"), false, access, ttl)?;
    Candidate::start(netns, move |commands, say| Elector::new(config).run(commands, say))
}

/// One of `group`.
fn start_joint(netns: &Netns, access: Access, ttl: Duration, group: &str) -> Result<Candidate> {
    let name = netns.name();
    let config = config(name, group.to_owned(), true, access, ttl)?;
    let share = format!("{group}/{name}");
    Candidate::start(netns, move |commands, say| Elector::joint(config, &share).run(commands, say))
}

fn config(name: &str, identity: String, joint: bool, access: Access, ttl: Duration) -> Result<ElectorConfig> {
    let machine = EtcdConfig {
        identity,
        joint,
        members: access.endpoints().len(),
        timing: Timing::etcd(ttl)?,
        seed: Some(u64::from(name.as_bytes()[name.len() - 1])),
        term: Term(0),
    };
    Ok(ElectorConfig { access, key: KEY.to_owned(), machine, clock: now })
}

/// Puts `from` where `to` is, at once, as a rotation does.
///
/// # Errors
/// When a file cannot be written.
pub fn replace(from: &TlsFiles, to: &TlsFiles) -> Result<()> {
    for (from, to) in [(&from.certificate, &to.certificate), (&from.key, &to.key)] {
        let beside: PathBuf = to.with_extension("new");
        std::fs::copy(from, &beside)?;
        std::fs::rename(&beside, to)?;
    }
    ensure!(from.ca == to.ca, "one CA");
    Ok(())
}
