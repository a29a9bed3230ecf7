//! Two nodes with the real daemon whose VIP a lease elects, a real API server and an etcd behind a network of its own, and a client that asks
//! for the VIP all the time: what a fault of the owner shows on the LAN.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::apiserver::{ApiServer, Pulse};
use crate::bascule::{Bascule, binary};
use crate::etcd::{self, Data, Member};
use crate::pki::{Authority, Pair};
use crate::{
    ArpAsker, BridgeOptions, Direction, Filter, Frame, Kind, Lab, LabError, Mac, Netns, Port, ProbeOptions, Responder,
    Result, Sniffer, Stamp, UdpProber, wait_for,
};

/// The VIP that the Lease elects.
pub const VIP: IpAddr = IpAddr::V4(SAFE);
const SAFE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
/// A VIP that VRRP elects on the same nodes.
pub const VRRP_VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 101));
/// The group of [`VIP`].
pub const GROUP: &str = "cp";
/// The group of [`VRRP_VIP`].
pub const VRRP_GROUP: &str = "web";
/// How long anything may take that must happen, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Path of the Lease.
pub const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/plndr-cp-lock";

/// What the bound of a take-over counts for one request to the API server: a third of what a renew deadline of 2 s has beyond a retry
/// period of 0.5 s (`bascule_core::election::lease::Timing`).
const REQUEST: Duration = Duration::from_millis(500);
/// How long the Lease lasts.
const DURATION: Duration = Duration::from_secs(3);

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 200);
const API: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 8, 0, 1));
const ETCD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 8, 0, 2));
const PORT: u16 = 7777;
/// The role and account that are shipped.
const ROLE: &str = include_str!("../../../deploy/rbac-elector.yaml");

/// Where the lease lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// A Lease of the API server, 3 s.
    Kubernetes,
    /// A key of an etcd with TLS, TTL 5 s.
    Etcd,
}

impl Store {
    /// Every store.
    pub const ALL: [Self; 2] = [Self::Kubernetes, Self::Etcd];

    /// For tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kubernetes => "Kubernetes",
            Self::Etcd => "etcd",
        }
    }
}

/// What befalls the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill,
    /// SIGSTOP until the other owns, then SIGCONT.
    Freeze,
    /// Its way to the store is cut, and nothing else.
    Partition,
    /// SIGTERM.
    Stop,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 4] = [Self::Kill, Self::Freeze, Self::Partition, Self::Stop];

    /// For tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Freeze => "SIGSTOP past the lease, SIGCONT",
            Self::Partition => "way to the store cut",
            Self::Stop => "SIGTERM",
        }
    }
}

/// What a fault showed.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Index of the new owner.
    pub successor: usize,
    /// From the fault to the successor's first announcement.
    pub takeover: Duration,
    /// From the last word or packet of the former owner to that announcement.
    pub silence: Duration,
    /// Frames by which the former owner spoke for the VIP after that.
    pub overlap: usize,
    /// Adverts of whichever node for the group.
    pub adverts: usize,
    /// The longest that the API server let a write of the lab wait, from one lease before the fault until the take-over; zero where the
    /// lease lies in etcd.
    pub store: Duration,
}

impl Outcome {
    /// The API server took longer for a request than the bound counts: when the former owner's last renewal was written, and so what the
    /// time of the take-over must be, is not known. Frames of two owners count all the same.
    pub fn void(&self) -> bool {
        self.store > REQUEST
    }
}

/// One node.
pub struct Node {
    /// Its namespace: eth0 on the LAN, eth1 towards the API server.
    pub netns: Netns,
    /// Its port on the LAN.
    pub port: Port,
    /// Its port on the network of the stores.
    pub api_port: Port,
    /// The daemon, while it runs.
    pub daemon: Option<Bascule>,
    _responder: Responder,
}

/// Everything.
pub struct Leased {
    /// `n1` and `n2`.
    pub nodes: Vec<Node>,
    // Before the server it asks.
    pulse: Option<Pulse>,
    /// The API server.
    pub api: ApiServer,
    /// On the LAN.
    pub sniffer: Sniffer,
    /// Asks for [`VIP`] by ARP.
    pub asker: ArpAsker,
    prober: UdpProber,
    token: Option<Stamp>,
    kubeconfigs: Vec<PathBuf>,
    store: Store,
    etcd: Option<(Member, Authority, Pair)>,
    // Last: everything above lies in it.
    lab: Lab,
}

impl Leased {
    /// Builds all of it for a Lease of the API server, without daemons. The Lease is there and free.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        Self::on(name, Store::Kubernetes)
    }

    /// The same with the lease in `store`.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn on(name: &str, store: Store) -> Result<Self> {
        let lab = Lab::new(name)?;
        let (lan, back) =
            (lab.bridge("lan", &BridgeOptions::default())?, lab.bridge("back", &BridgeOptions::default())?);
        let (client, _) = lab.host("client", &lan, &[net(CLIENT)])?;
        let (host, _) = lab.host("api", &back, &[net(Ipv4Addr::new(10, 8, 0, 1))])?;
        let api = ApiServer::start(&lab, &host, &[API])?;
        api.apply(ROLE)?;
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "plndr-cp-lock", "namespace": "kube-system"},
            "spec": {"holderIdentity": "", "leaseDurationSeconds": 1}});
        api.must("POST", LEASE.trim_end_matches("/plndr-cp-lock"), Some(&lease))?;
        let pulse = (store == Store::Kubernetes).then(|| api.pulse()).transpose()?;
        let etcd = match store {
            Store::Kubernetes => None,
            Store::Etcd => {
                let (host, _) = lab.host("etcd", &back, &[net(Ipv4Addr::new(10, 8, 0, 2))])?;
                let authority = Authority::create(&lab.directory().join("etcd-pki"))?;
                let mut member = Member::start(&lab, &host, &[("e1", ETCD)], 0, Data::Memory, &authority)?;
                member.wait_ready()?;
                let user = authority.sign("node", "node", &[])?;
                Some((member, authority, user))
            }
        };
        let mut nodes = Vec::new();
        for n in 1..=2_u8 {
            let (netns, port) = lab.host(&format!("n{n}"), &lan, &[net(Ipv4Addr::new(10, 9, 0, n))])?;
            let api_port = back.attach(&netns, "eth1", &[net(Ipv4Addr::new(10, 8, 0, 10 + n))])?;
            let responder = Responder::start(&netns, u32::from(n), PORT)?;
            nodes.push(Node { netns, port, api_port, daemon: None, _responder: responder });
        }
        let sniffer = Sniffer::start(&[&lan], &[VIP, VRRP_VIP])?;
        let asker = ArpAsker::start(&client, CLIENT, SAFE, Duration::from_millis(10))?;
        let options = ProbeOptions { interval: Duration::from_millis(10), ..ProbeOptions::default() };
        let prober = UdpProber::start(&client, VIP, PORT, options)?;
        let (token, kubeconfigs) = (None, Vec::new());
        let mut all = Self { nodes, api, sniffer, asker, prober, token, kubeconfigs, store, pulse, etcd, lab };
        all.refresh_tokens()?;
        Ok(all)
    }

    /// The configuration of node `index`: one VIP on the lease (3 s, 2 s, 0.5 s of the API server, or a TTL of 5 s), one by VRRP.
    pub fn config(&self, index: usize) -> Value {
        let name = format!("n{}", index + 1);
        let vrrp = json!({"name": VRRP_GROUP, "addresses": [VRRP_VIP], "interface": "eth0", "vrid": 52,
            "nodes": ["n1", "n2"], "conflictProbe": false});
        match &self.etcd {
            None => {
                let lease = json!({"duration": "3s", "renewDeadline": "2s", "retryPeriod": "500ms"});
                let vip = json!({"name": GROUP, "addresses": [VIP], "interface": "eth0", "ownership": "safe",
                    "lease": lease});
                json!({"node": name, "kubernetes": {"kubeconfig": self.kubeconfigs[index]}, "vips": [vip, vrrp]})
            }
            Some((_, authority, user)) => {
                let etcd = json!({"endpoints": [format!("https://{ETCD}:{}", etcd::PORT)], "caFile": authority.ca,
                    "certFile": user.certificate, "keyFile": user.key, "ttl": "5s"});
                let vip = json!({"name": GROUP, "addresses": [VIP], "interface": "eth0", "elector": "etcd",
                    "lease": {"name": "api"}});
                json!({"node": name, "etcd": etcd, "vips": [vip, vrrp]})
            }
        }
    }

    /// Starts the daemon of node `index`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, index: usize) -> Result<()> {
        let daemon = Bascule::start(&self.lab, &self.nodes[index].netns, &self.config(index))?;
        self.nodes[index].daemon = Some(daemon);
        Ok(())
    }

    /// The daemon of node `index`.
    ///
    /// # Panics
    /// When it was not started: a fault of the test.
    pub fn daemon(&mut self, index: usize) -> &mut Bascule {
        self.nodes[index].daemon.as_mut().expect("the daemon was started")
    }

    /// Waits for an owner of the group among the daemons that run; its index.
    ///
    /// # Errors
    /// When there is none in time.
    pub fn owner(&self) -> Result<usize> {
        let owns = |node: &Node| node.daemon.as_ref().is_some_and(|d| d.role(GROUP).as_deref() == Some("active"));
        wait_for(PATIENCE, "an owner", || self.nodes.iter().position(owns))
    }

    /// Waits until node `index` knows that another one holds the Lease.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn follows(&mut self, index: usize) -> Result<()> {
        self.daemon(index).wait_role(PATIENCE, GROUP, "backup")?;
        let (store, name) = (self.store, format!("n{}_bascule", 2 - index));
        let names = |holder: &str| match store {
            Store::Kubernetes => holder == name,
            // The boot follows.
            Store::Etcd => holder.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('_')),
        };
        let daemon = self.daemon(index);
        wait_for(PATIENCE, "the follower to know the holder", || {
            daemon.group(GROUP)?["lease"]["holder"].as_str().is_some_and(names).then_some(())
        })
    }

    /// The bound that the daemons print.
    ///
    /// # Errors
    /// When none answers.
    pub fn bound(&mut self) -> Result<Duration> {
        let owner = self.owner()?;
        let group = self.daemon(owner).group(GROUP);
        let seconds = group.and_then(|g| g["lease"]["takeoverBoundSeconds"].as_f64());
        seconds.map(Duration::from_secs_f64).ok_or_else(|| LabError::answer("/state", "no bound"))
    }

    /// Tokens are good for 10 minutes.
    ///
    /// # Errors
    /// When the server does not give them.
    pub fn refresh_tokens(&mut self) -> Result<()> {
        if self.token.is_none_or(|at| Stamp::now().since(at) > Duration::from_secs(240)) {
            let token = self.api.token("kube-system", "bascule-elector")?;
            let write = |n| self.api.kubeconfig(&format!("n{n}"), API, &token);
            self.kubeconfigs = (1..=self.nodes.len()).map(write).collect::<Result<_>>()?;
            self.token = Some(Stamp::now());
        }
        Ok(())
    }

    /// One fault of the owner; afterwards both run again, and the successor owns.
    ///
    /// # Errors
    /// When nobody follows, or the former owner does not come back as a follower.
    pub fn strike(&mut self, fault: Fault) -> Result<Outcome> {
        self.refresh_tokens()?;
        let owner = self.owner()?;
        let successor = 1 - owner;
        self.follows(successor)?;
        let (old, new) = (self.nodes[owner].port.mac(), self.nodes[successor].port.mac());
        self.sniffer.forget(Stamp::now());
        let mut cut = None;
        let struck = match fault {
            Fault::Kill => self.daemon(owner).process.sigkill()?,
            Fault::Freeze => self.daemon(owner).process.stop(),
            Fault::Partition => {
                cut = Some(self.nodes[owner].api_port.cut(Direction::Both, Filter::All)?);
                Stamp::now()
            }
            Fault::Stop => self.daemon(owner).process.sigterm()?,
        };
        let first = wait_for(PATIENCE, "the successor's announcement", || {
            self.sniffer.first_announcement(VIP, struck, |mac| mac == new)
        })?;
        // Served by it.
        let asked = self.asker.asked();
        self.prober.wait_answer(PATIENCE, first.at, Some(u32::try_from(successor + 1).unwrap_or(0)))?;
        match fault {
            Fault::Kill => self.start(owner)?,
            Fault::Stop => {
                self.daemon(owner).process.wait(PATIENCE)?;
                self.start(owner)?;
            }
            Fault::Freeze => self.daemon(owner).process.cont(),
            Fault::Partition => {
                cut.map(crate::Dropper::heal).transpose()?;
            }
        }
        self.follows(owner)?;
        // Asked for often enough since that a second owner would have answered.
        wait_for(PATIENCE, "the client to have asked", || (self.asker.asked() >= asked + 50).then_some(()))?;
        let until = Stamp::now();
        let dual = self.sniffer.dual_frames(VIP, new, first.at, until, None);
        let answered = self.answers(new, first.at);
        if answered == 0 || self.sniffer.lost() > 0 {
            let what = format!("{answered} answers, {} frames lost", self.sniffer.lost());
            return Err(LabError::answer("the client and the sniffer", what));
        }
        let adverts = self.sniffer.frames(struck, |f| matches!(f.kind, Kind::Vrrp { vrid, .. } if vrid != 52)).len();
        let last = self.sniffer.carried(Stamp(0), |f| f.src == old && f.at < first.at && f.speaks_for() == Some(VIP));
        Ok(Outcome {
            successor,
            takeover: first.at.since(struck),
            silence: last.last().map_or(Duration::ZERO, |frame| first.at.since(frame.at)),
            overlap: dual.claims.len() + dual.served.len(),
            adverts,
            store: self.pulse.as_ref().map(|pulse| pulse.slowest(struck - DURATION, first.at)).unwrap_or_default(),
        })
    }

    /// ARP answers for the VIP by this node since then.
    pub fn answers(&self, mac: Mac, since: Stamp) -> usize {
        let ours = |f: &Frame| f.src == mac && matches!(f.kind, Kind::ArpReply { sender, .. } if sender == SAFE);
        self.sniffer.carried(since, ours).len()
    }

    /// Pins outlive their namespaces: removes what the daemons left.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn clean(&mut self) -> Result<()> {
        let program = binary()?.display().to_string();
        for node in &mut self.nodes {
            if let Some(mut daemon) = node.daemon.take() {
                daemon.process.sigkill()?;
            }
            node.netns.tool(&program, &["clean"])?;
        }
        Ok(())
    }
}

fn net(address: Ipv4Addr) -> ipnet::IpNet {
    ipnet::IpNet::new(address.into(), 24).expect("a prefix of 24 bits")
}
