//! Three Bascule nodes and a client on one LAN (two switches joined by a cable), and every way their owner can go.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bascule_lab::{
    Bridge, BridgeOptions, Direction, Dropper, Filter, Frame, Kind, Lab, Mac, Netns, Port, ProbeOptions, Sniffer,
    Stamp, Trunk, UdpProber, sleep_until, wait_for,
};
use serde_json::{Value, json};

use crate::group::node_config;
use crate::node::{Config, Node, SERVICE};

/// Virtual router of the arena's group.
const VRID: u8 = 51;
/// Name of the arena's group.
const GROUP: &str = "vip";
/// The default advert interval, which the arena runs with.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait for what protocol arithmetic puts below a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// What happens after the VIP is served again still belongs to the scene.
const TAIL: Duration = Duration::from_millis(500);

/// A way to lose an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its cable is cut silently.
    LinkCut,
    /// Its daemon is killed.
    Sigkill,
    /// Its daemon is stopped for 5 s and goes on.
    Sigstop,
    /// Its control group is frozen for 2 s and thawed.
    Freeze,
    /// Its daemon stands still for a moment, shorter or longer than its fence.
    Stall(Duration),
    /// Its daemon is asked to end.
    Sigterm,
    /// An operator moves the VIP.
    Move,
    /// Its adverts reach nobody; everything else passes.
    OneWay,
    /// Every third frame to and from it is lost, for 3 s.
    Loss,
    /// The cable between the two switches is cut for 2 s and mended.
    Rejoin,
}

impl Fault {
    /// Its name in tables.
    pub fn name(self) -> String {
        match self {
            Self::LinkCut => "link cut".to_owned(),
            Self::Sigkill => "SIGKILL".to_owned(),
            Self::Sigstop => "SIGSTOP 5 s, SIGCONT".to_owned(),
            Self::Freeze => "frozen cgroup".to_owned(),
            Self::Stall(time) => format!("stall {} ms", time.as_millis()),
            Self::Sigterm => "SIGTERM".to_owned(),
            Self::Move => "planned move".to_owned(),
            Self::OneWay => "one-way cut".to_owned(),
            Self::Loss => "random loss".to_owned(),
            Self::Rejoin => "two LANs rejoined".to_owned(),
        }
    }

    /// How long two owners may be seen: never through a fault of one node; bounded through one of the network.
    pub fn dual_allowance(self) -> Duration {
        match self {
            Self::OneWay => INTERVAL * 3,
            Self::Loss | Self::Rejoin => INTERVAL * 2,
            _ => Duration::ZERO,
        }
    }
}

/// What a scene cost.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Longest time without an answer, ms.
    pub gap_ms: f64,
    /// Probes never answered.
    pub lost: usize,
    /// From the fault to the successor's first announcement, ms; None when nobody had to take over.
    pub first_ms: Option<f64>,
    /// Frames that claimed the VIP for a node other than its owner, from the successor's first announcement on (network faults: from
    /// the first advert that was delivered again).
    pub dual: usize,
    /// From then to the last of them, ms.
    pub dual_ms: f64,
    /// Lateness of the prober and the services.
    pub late: Duration,
    /// Frames the sniffer lost: unless 0 it proves nothing.
    pub unseen: u64,
    /// How the fault was seen to happen.
    pub evidence: String,
}

/// The arena.
pub struct Arena {
    /// The nodes, by rank.
    pub nodes: Vec<Node>,
    /// Its addresses, one of each family.
    pub vips: [IpAddr; 2],
    sniffer: Sniffer,
    client: Netns,
    _client_port: Port,
    trunk: Trunk,
    _lans: [Bridge; 2],
    lab: Lab,
}

struct Happened {
    at: Stamp,
    /// The fault was complete; what the successor's speed is measured from.
    complete: Stamp,
    evidence: String,
    /// Two owners are counted from here; None: from the successor's first announcement.
    dual_from: Option<Stamp>,
}

impl Arena {
    /// Builds it and starts the three daemons; `extra` is merged into every node's configuration.
    ///
    /// # Errors
    /// When the lab refuses or a daemon does not take its role.
    pub fn start(name: &str, extra: &Value) -> Result<Self> {
        let lab = Lab::new(name)?;
        let options = BridgeOptions::default();
        let lans = [lab.bridge("west", &options)?, lab.bridge("east", &options)?];
        let trunk = lans[0].join(&lans[1])?;
        let vips: [IpAddr; 2] = ["10.9.0.100".parse()?, "fd09::100".parse()?];
        let (client, client_port) =
            lab.host("client", &lans[0], &["10.9.0.200/24".parse()?, "fd09::200/64".parse()?])?;
        let sniffer = Sniffer::start(&[&lans[0], &lans[1]], &vips)?;
        let group = json!({ "name": GROUP, "addresses": vips, "vrid": VRID, "nodes": ["n1", "n2", "n3"] });
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let name = format!("n{id}");
            let mut config = node_config(&lab, &name, std::slice::from_ref(&group))?;
            for (key, value) in extra.as_object().into_iter().flatten() {
                config[key] = value.clone();
            }
            let lan = &lans[usize::from(id > 1)];
            nodes.push(Node::new(&lab, lan, &name, id, GROUP, Config::Bascule(config))?);
        }
        let mut arena = Self { nodes, vips, sniffer, client, _client_port: client_port, trunk, _lans: lans, lab };
        for n in 0..3 {
            arena.nodes[n].start(&arena.lab)?;
            let role = if n == 0 { "active" } else { "backup" };
            arena.wait(|a| a.nodes[n].role().as_deref() == Some(role), &format!("n{} to be {role}", n + 1))?;
        }
        Ok(arena)
    }

    fn wait(&mut self, condition: impl Fn(&Self) -> bool, what: &str) -> Result<()> {
        let waited = wait_for(PATIENCE, what, || condition(self).then_some(()));
        waited.with_context(|| {
            let tails: Vec<_> = self.nodes.iter().map(|n| format!("--- {}:\n{}", n.netns.name(), n.tail())).collect();
            tails.join("\n")
        })
    }

    /// The one node that says it is Active.
    fn owner(&self) -> Option<usize> {
        let active: Vec<usize> = (0..3).filter(|n| self.nodes[*n].role().as_deref() == Some("active")).collect();
        if let [one] = active[..] { Some(one) } else { None }
    }

    /// Every daemon runs; one is Active, the others are Backups, and it alone has sent adverts for three intervals.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn settle(&mut self) -> Result<usize> {
        for n in 0..3 {
            if !self.nodes[n].process().is_ok_and(|p| p.alive()) {
                self.nodes[n].start(&self.lab)?;
            }
        }
        let settled = |a: &Self| {
            let adverts = a.sniffer.adverts(VRID, Stamp::now() - INTERVAL * 4);
            let backups = a.nodes.iter().filter(|n| n.role().as_deref() == Some("backup")).count();
            backups == 2
                && a.owner().is_some_and(|o| {
                    let mac = a.nodes[o].port.mac();
                    !adverts.is_empty() && adverts.iter().all(|f| f.src == mac)
                })
        };
        self.wait(settled, "one owner and two backups")?;
        self.owner().context("the owner has just gone by itself")
    }

    /// Lets `fault` happen to the owner, and says what the VIP's client of this family (0: IPv4, 1: IPv6) and the LAN saw.
    ///
    /// # Errors
    /// When nobody serves the VIP afterwards, or the fault was not seen to happen.
    pub fn scene(&mut self, fault: Fault, family: usize) -> Result<Observation> {
        let owner = self.settle()?;
        let vip = self.vips[family];
        let prober = UdpProber::start(&self.client, vip, SERVICE, ProbeOptions::default())?;
        prober.wait_answer(PATIENCE, Stamp::now(), Some(self.nodes[owner].id)).context("the owner's first answer")?;
        sleep_until(Stamp::now() + Duration::from_millis(100));
        for node in &self.nodes {
            node.responder.take_lateness();
        }
        let unseen = self.sniffer.lost();
        let mut cuts = Vec::new();
        let happened = self.inflict(fault, owner, &prober, &mut cuts).with_context(|| fault.name())?;
        let served = prober.wait_answer(PATIENCE, Stamp::now(), None).context("the VIP to be served again")?;
        sleep_until(Stamp::now() + TAIL);
        let end = Stamp::now();
        let probe = prober.finish();
        let lateness = probe.lateness(happened.at - Duration::from_millis(20), end).worst();
        let services = self.nodes.iter().map(|n| n.responder.take_lateness()).max().unwrap_or_default();
        let old = self.nodes[owner].port.mac();
        let first = self.sniffer.first_announcement(vip, happened.at, |mac| mac != old);
        let holder = self.nodes.iter().find(|n| n.id == served).map(|n| n.port.mac()).context("a stranger answers")?;
        let dual = self.dual(vip, first, happened.dual_from, holder, end);
        let from = happened.dual_from.or(first.map(|f| f.at)).unwrap_or(end);
        let observation = Observation {
            gap_ms: probe.longest_gap(happened.at, end).ms(),
            lost: probe.lost(happened.at - Duration::from_millis(20), end).1,
            first_ms: first.map(|f| f.at.since(happened.complete).as_secs_f64() * 1e3),
            dual: dual.len(),
            dual_ms: dual.last().map_or(0.0, |f| f.at.since(from).as_secs_f64() * 1e3),
            late: lateness.max(services),
            unseen: self.sniffer.lost() - unseen,
            evidence: happened.evidence,
        };
        drop(cuts);
        Ok(observation)
    }

    /// Claims by anybody but the owner. After a fault of one node the owner is the first successor; after one of the network it is who
    /// holds the VIP in the end.
    fn dual(&self, vip: IpAddr, first: Option<Frame>, from: Option<Stamp>, holder: Mac, end: Stamp) -> Vec<Frame> {
        match (from, first) {
            (Some(from), _) => self.sniffer.dual_frames(vip, holder, from, end, None).claims,
            (None, Some(first)) => self.sniffer.dual_frames(vip, first.src, first.at, end, None).claims,
            (None, None) => Vec::new(),
        }
    }

    fn inflict(&mut self, fault: Fault, owner: usize, prober: &UdpProber, cuts: &mut Vec<Dropper>) -> Result<Happened> {
        let id = self.nodes[owner].id;
        let plain = |at, evidence: String| Ok(Happened { at, complete: at, evidence, dual_from: None });
        // Somebody else answers after `at`.
        let taken_over = |at: Stamp| {
            wait_for(PATIENCE, "another node to answer", || {
                prober.last_answer().filter(|(by, t)| *by != id && *t > at).map(drop)
            })
        };
        match fault {
            Fault::LinkCut => {
                let cut = self.nodes[owner].port.cut(Direction::Both, Filter::All)?;
                taken_over(cut.since)?;
                let (at, dropped) = (cut.since, cut.dropped()?);
                ensure!(dropped > 0, "the cut port dropped nothing");
                let complete = cut.in_force;
                cuts.push(cut);
                let evidence = format!("{dropped} frames dropped on its port");
                Ok(Happened { at, complete, evidence, dual_from: None })
            }
            Fault::Sigkill => {
                let process = self.nodes[owner].process()?;
                let at = process.sigkill()?;
                ensure!(!process.alive(), "it survived SIGKILL");
                taken_over(at)?;
                plain(at, "the process is gone".to_owned())
            }
            Fault::Sigstop => {
                let process = self.nodes[owner].process()?;
                let at = process.stop();
                let stat = format!("/proc/{}/stat", process.pid());
                let state =
                    || std::fs::read_to_string(&stat).ok()?.rsplit_once(')').map(|(_, rest)| rest.starts_with(" T"));
                wait_for(PATIENCE, "the owner to stand still", || state().filter(|t| *t))?;
                taken_over(at)?;
                sleep_until(at + Duration::from_secs(5));
                self.nodes[owner].process()?.cont();
                // Behind the fence it is a Backup now; without one the higher priority may win the address back.
                self.wait(|a| a.owner().is_some(), "one owner after it went on")?;
                let role = self.nodes[owner].role().unwrap_or_default();
                plain(at, format!("state T for 5 s, then {role}"))
            }
            Fault::Freeze => {
                let at = self.nodes[owner].process()?.freeze(true)?;
                taken_over(at)?;
                sleep_until(at + Duration::from_secs(2));
                self.nodes[owner].process()?.freeze(false)?;
                // Behind the fence it is a Backup now; without one the higher priority may win the address back.
                self.wait(|a| a.owner().is_some(), "one owner after it went on")?;
                let role = self.nodes[owner].role().unwrap_or_default();
                plain(at, format!("frozen for 2 s, then {role}"))
            }
            Fault::Stall(time) => {
                let at = Stamp::now();
                let stood = self.nodes[owner].process()?.stall(time);
                ensure!(stood >= time, "it stood for {stood:?} only");
                sleep_until(Stamp::now() + INTERVAL * 4);
                plain(at, format!("stood for {:.1} ms", stood.as_secs_f64() * 1e3))
            }
            Fault::Sigterm => {
                let at = self.nodes[owner].terminate().with_context(|| self.nodes[owner].tail())?;
                taken_over(at)?;
                plain(at, "it ended by itself".to_owned())
            }
            Fault::Move => {
                let to = (0..3).find(|n| *n != owner).context("three nodes")?;
                let (name, target) = (self.nodes[to].netns.name().to_owned(), self.nodes[to].id);
                let at = Stamp::now();
                let said = self.nodes[owner].bascule()?.ctl(&["move", GROUP, "--to", &name])?;
                prober
                    .wait_answer(PATIENCE, at, Some(target))
                    .with_context(|| format!("{name} to serve; it said {said}"))?;
                plain(at, format!("{name} answers"))
            }
            Fault::OneWay => {
                let cut = self.nodes[owner].port.cut(Direction::FromNode, Filter::Vrrp)?;
                let at = cut.since;
                self.wait(|a| a.owner().is_some_and(|o| o != owner), "one other owner")?;
                sleep_until(Stamp::now() + INTERVAL * 5);
                let dropped = cut.dropped()?;
                ensure!(dropped > 0, "no advert was dropped");
                let complete = cut.in_force;
                cuts.push(cut);
                let evidence = format!("{dropped} adverts dropped on its port");
                Ok(Happened { at, complete, evidence, dual_from: None })
            }
            Fault::Loss => {
                let loss = self.nodes[owner].port.lose(Direction::Both, Filter::All, 1.0 / 3.0)?;
                let at = loss.since;
                sleep_until(at + Duration::from_secs(3));
                let dropped = loss.heal()?;
                ensure!(dropped > 0, "nothing was lost");
                self.reunited(at, at, format!("{dropped} frames lost"))
            }
            Fault::Rejoin => self.part_and_rejoin(),
        }
    }

    fn part_and_rejoin(&mut self) -> Result<Happened> {
        let cut = self.trunk.near.cut(Direction::Both, Filter::All)?;
        let (at, complete) = (cut.since, cut.in_force);
        let both = |a: &Self| {
            let active = |n: usize| a.nodes[n].role().as_deref() == Some("active");
            active(0) && (active(1) || active(2))
        };
        self.wait(both, "an owner on either side")?;
        sleep_until(at + Duration::from_secs(2));
        let dropped = cut.heal()?;
        if dropped == 0 {
            bail!("the cut trunk dropped nothing");
        }
        self.reunited(at, complete, format!("{dropped} frames dropped between the switches, an owner on either side"))
    }

    /// After the network is whole again: two owners count from two intervals' start, the first advert that reached another node.
    fn reunited(&mut self, at: Stamp, complete: Stamp, evidence: String) -> Result<Happened> {
        let healed = Stamp::now();
        let delivered = wait_for(PATIENCE, "an advert on the mended LAN", || {
            let advert = |f: &Frame| matches!(f.kind, Kind::Vrrp { vrid: VRID, .. });
            self.sniffer.carried(healed, advert).first().map(|f| f.at)
        })?;
        self.wait(|a| a.owner().is_some(), "one owner again")?;
        sleep_until(Stamp::now() + INTERVAL * 5);
        Ok(Happened { at, complete, evidence, dual_from: Some(delivered) })
    }
}
