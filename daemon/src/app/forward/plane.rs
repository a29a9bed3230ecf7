//! The balancer and the programs together: configuration in, actions carried out, devices kept, ways to nodes found.

mod conditions;
mod resolve;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bascule_core::balance::io::Action;
use bascule_core::balance::{Balancer, SiteSpec};
use bascule_core::bfd::config::PeerConfig;
use bascule_core::health::ProbeKind;
use bascule_core::node::io::LinkInfo;
use bascule_core::service::{NodeSpec, ServiceKey};
use bascule_core::site::SiteId;
use bascule_core::time::Instant;
use bascule_core::types::{LinkId, Mac};
use bascule_ebpf_common::forward::{Config, DEFAULT_FLOWS, Key, key_index, pair_key};
use tracing::{info, warn};

use super::inside::Inside;
use super::liveness::{Liveness, Session};
use super::status::tell;
use super::terms::Terms;
use super::wanted::{devices, node_config};
use super::{Endpoints, Said};
use crate::clock;
use crate::config::{Forwarding, Hook as Wanted};
use crate::dataplane::forward::{Forward, ForwardError, ForwardOptions, Wish};
use crate::handle::forward::{self, Probe, Standing};

/// From one try to the next to open the plane, and to put the programs on a device that refused them.
const RETRY: Duration = Duration::from_secs(30);

/// A frame of ours could not be made longer on a device with XDP.
const NO_HEADROOM: &str = "xdp: the driver leaves no room before a frame: XDP has given way to tc";

/// A witness to ask.
pub(super) struct Question {
    pub(super) inquiry: u32,
    pub(super) probe: ProbeKind,
    pub(super) timeout: Duration,
}

#[derive(Default)]
pub(super) struct Plane {
    /// Which of several daemons on this node.
    instance: u8,
    pub(super) balancer: Balancer,
    forward: Option<Forward>,
    config: Option<Box<Forwarding>>,
    /// The former runs' entries are swept: everything that shall be is in the maps.
    swept: bool,
    settled: bool,
    /// Devices were asked to carry the programs, with whatever outcome; or none shall.
    stood: bool,
    /// Endpoints to ask out of turn.
    pub(super) questions: Vec<Question>,
    pub(super) standings: BTreeMap<u32, Standing>,
    /// How often the programs had been taken off a device.
    pub(super) healed: u64,
    /// Devices that refused, and what they said.
    refused: BTreeMap<u32, String>,
    look: bool,
    /// The networks inside, as far as the configuration decides them; and whether all of them may be others.
    inside: Option<Inside>,
    look_inside: bool,
    /// The balancer began anew and knows no check's word.
    pub(super) forgot_checks: bool,
    asks_ways: bool,
    /// Any place may be another than is known.
    pub(super) asks_all: bool,
    retry: Option<Instant>,
    headroom: u64,
    /// Devices that had to leave XDP.
    without_xdp: BTreeSet<u32>,
    liveness: Liveness,
    /// Nodes as the log has them.
    told: BTreeMap<String, bool>,
    /// The programs go anew onto every device.
    renew: bool,
    /// Site tables, for a balancer that begins anew.
    sites: BTreeMap<ServiceKey, Vec<SiteId>>,
    /// Other sites, the nearest first, for the same.
    neighbours: Vec<SiteSpec>,
    /// Gateways of sites that probes do not reach, by id, for the same.
    silent: BTreeMap<SiteId, BTreeSet<u16>>,
    /// Endpoints that operators took out of use, for the same.
    drained: BTreeSet<Endpoints>,
    /// Services that one site at a time has.
    pub(super) terms: Terms,
    trouble: Said,
    pub(super) problem: Option<String>,
}

impl Plane {
    pub(super) fn of(instance: u8) -> Self {
        Self { instance, terms: Terms::of(instance), ..Self::default() }
    }

    pub(super) fn forward(&self) -> Option<&Forward> {
        self.forward.as_ref()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (&NodeSpec, bool)> {
        let config = self.config.iter();
        config.flat_map(|c| &c.config.nodes).map(|node| (node, self.liveness.is_up(node)))
    }

    pub(super) fn this(&self) -> Option<&str> {
        self.config.as_ref()?.config.node.as_deref()
    }

    /// Asks the programs' maps; the error in words.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&Forward) -> Result<T, ForwardError>) -> Result<T, String> {
        let Some(forward) = &self.forward else {
            return Err(self.problem.clone().unwrap_or_else(|| "there is no data plane on this node".to_owned()));
        };
        ask(forward).map_err(|error| error.to_string())
    }

    /// A configuration, good as a whole.
    pub(super) fn configure(
        &mut self,
        config: Option<Box<Forwarding>>,
        bfd: &[PeerConfig],
        links: &BTreeMap<LinkId, LinkInfo>,
        now: Instant,
    ) {
        if config.is_none() {
            self.problem = None;
            self.stood = true;
        }
        self.liveness.configure(config.iter().flat_map(|c| &c.config.nodes), bfd, now);
        match config.as_deref() {
            Some(config) => self.inside.get_or_insert_default().configure(config),
            None => self.inside = None,
        }
        self.renew |= self.config.as_ref().map(|c| c.hook) != config.as_ref().map(|c| c.hook);
        self.config = config;
        let flows = self.config.as_ref().map(|c| c.flows);
        if let (Some(flows), Some(forward)) = (flows, &self.forward)
            && forward.capacity() != flows
        {
            info!(
                from = forward.capacity(),
                to = flows,
                "the map of flows gets another size: the programs are loaded anew"
            );
            self.close();
        }
        if self.config.is_some() && self.forward.is_none() {
            self.open(now);
        }
        self.look_inside = true;
        self.write_config();
        let wanted = self.config.as_ref().map(|c| c.config.clone()).unwrap_or_default();
        // Loading the programs takes a second, on a busy machine many: checks have not had that time to speak.
        let now = now.max(Instant::from_nanos(clock::boot_ns()));
        if self.forward.is_some() {
            self.terms.hold(&mut self.balancer, now);
            self.balancer.handle_config(wanted, now);
            self.tell_sites(now);
        }
        self.refit(links);
        self.tell_nodes(now);
        self.look = true;
        self.turn(now, links);
    }

    /// Lets go of the programs, which go on by their pins, as at the end of a process.
    fn close(&mut self) {
        self.forward = None;
        self.balancer = Balancer::default();
        (self.swept, self.settled) = (false, false);
        self.standings.clear();
    }

    /// Loads the programs and tells the balancer what former runs left.
    fn open(&mut self, now: Instant) {
        let flows = self.config.as_ref().map_or(DEFAULT_FLOWS, |config| config.flows);
        let opened =
            Forward::open(&ForwardOptions { flows, ..ForwardOptions::of(self.instance) }).and_then(|forward| {
                if forward.kept_tables() {
                    self.balancer.handle_recovered(forward.recovered()?);
                }
                Ok(forward)
            });
        match opened {
            Ok(forward) => {
                self.headroom = forward.headroom_failures().unwrap_or_default();
                self.forward = Some(forward);
                self.problem = None;
                self.retry = None;
                self.forgot_checks = true;
            }
            Err(error) => {
                let text = format!("forwarding cannot be started: {error}");
                self.problem = Some(text.clone());
                self.trouble.error(text);
                self.retry = Some(now + RETRY);
            }
        }
    }

    /// What the programs must know of this node and its keys. A key goes before it is used, and after it is not used any more.
    fn write_config(&mut self) {
        let Some(forward) = &mut self.forward else { return };
        let written = match &self.config {
            None => forward.set_config(&Config::default()),
            Some(config) => {
                let node = node_config(config);
                let others: BTreeSet<u8> = config.config.nodes.iter().map(|spec| spec.site).collect();
                // Of this site at 0, and of the pairs with others.
                let set = |forward: &mut Forward, slot: usize| {
                    let (shared, place) = (config.keys.tags[slot].map(|key| key.0), u8::from(slot != 0));
                    let entry =
                        |key: Option<[u64; 2]>| Key { key: key.unwrap_or_default(), valid: key.is_some().into() };
                    forward.set_key(key_index(0, place), &entry(shared))?;
                    others.iter().filter(|site| **site != node.site).try_for_each(|site| {
                        let key = shared.map(|shared| pair_key(shared, node.site, *site));
                        forward.set_key(key_index(*site, place), &entry(key))
                    })
                };
                let send = config.keys.send;
                set(forward, send).and_then(|()| forward.set_config(&node)).and_then(|()| set(forward, 1 - send))
            }
        };
        if let Err(error) = written {
            self.trouble.error(format!("the configuration of forwarding is not written: {error}"));
        }
    }

    pub(super) fn links_changed(&mut self) {
        self.look = true;
        self.look_inside = true;
        self.asks_ways = true;
    }

    /// Something may be reached by another way.
    pub(super) fn asks_ways(&mut self) -> bool {
        std::mem::take(&mut self.asks_ways)
    }

    /// Is it settled, once after the start, whether this node forwards?
    pub(super) fn is_decided(&self) -> bool {
        self.stood || self.problem.is_some()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.balancer.poll_timeout()
    }

    /// Carries out what is owed.
    pub(super) fn turn(&mut self, now: Instant, links: &BTreeMap<LinkId, LinkInfo>) {
        if self.balancer.poll_timeout().is_some_and(|at| at <= now) {
            self.balancer.handle_expire(now);
        }
        // Before the sweep, which removes what nobody named.
        if std::mem::take(&mut self.look_inside) {
            self.write_inside(links);
            self.write_macs(links);
        }
        while let Some(action) = self.balancer.poll_action() {
            match &action {
                Action::Report(report) => tell(report),
                Action::PutNode(_) | Action::PutEndpoint { .. } => self.asks_ways = true,
                Action::Ask { inquiry, probe, timeout, .. } => {
                    let (inquiry, probe, timeout) = (*inquiry, probe.clone(), *timeout);
                    self.questions.push(Question { inquiry, probe, timeout });
                }
                Action::Sweep => {
                    self.swept = true;
                    self.look = true;
                    // Places of a former run held until now.
                    self.asks_all = true;
                }
                _ => {}
            }
            let Some(forward) = &mut self.forward else { continue };
            if let Err(error) = forward.apply(action) {
                self.trouble.error(format!("a table of forwarding is not what it should be: {error}"));
            }
        }
        // Not before everything is in the maps: a program that finds no services passes what it should steer.
        if self.swept && std::mem::take(&mut self.look) {
            self.stand(links);
        }
    }

    fn write_inside(&mut self, links: &BTreeMap<LinkId, LinkInfo>) {
        let Some(forward) = &mut self.forward else { return };
        let ranges = self.inside.as_ref().map(|inside| inside.ranges(links)).unwrap_or_default();
        if let Err(error) = forward.set_inside(&ranges) {
            self.trouble.error(format!("the networks inside are not written: {error}"));
        }
    }

    fn write_macs(&mut self, links: &BTreeMap<LinkId, LinkInfo>) {
        let Some(forward) = &mut self.forward else { return };
        let macs = links.values().map(|link| link.mac).filter(|mac| *mac != Mac::ZERO).collect();
        match forward.set_macs(&macs) {
            Ok(false) => {}
            Ok(true) => self.trouble.error(format!(
                "{} link addresses are more than fit: frames for other stations are taken too",
                macs.len()
            )),
            Err(error) => self.trouble.error(format!("the link addresses of this node are not written: {error}")),
        }
    }

    /// Puts the programs on the devices that shall carry them, and takes them off all others.
    fn stand(&mut self, links: &BTreeMap<LinkId, LinkInfo>) {
        let Some(forward) = &mut self.forward else { return };
        let wanted = self.config.as_ref().map(|config| devices(config, links)).unwrap_or_default();
        let mut refused = BTreeMap::new();
        let renew = std::mem::take(&mut self.renew);
        for ifindex in &wanted {
            if self.standings.contains_key(ifindex) && !renew {
                continue;
            }
            let wish = match self.config.as_ref().map(|config| config.hook) {
                _ if self.without_xdp.contains(ifindex) => Wish::Tc,
                Some(Wanted::Xdp) => Wish::Xdp,
                Some(Wanted::Tc) => Wish::Tc,
                Some(Wanted::Auto) | None => Wish::Auto,
            };
            match forward.attach(*ifindex, wish) {
                Ok(mut standing) => {
                    if self.without_xdp.contains(ifindex) {
                        standing.reasons.push(NO_HEADROOM.to_owned());
                        standing
                            .probes
                            .push(Probe { probe: forward::ProbeKind::Headroom, trouble: Some(NO_HEADROOM.to_owned()) });
                    }
                    let (ingress, egress) = (standing.ingress.as_str(), standing.egress.as_str());
                    let reasons = standing.reasons.join("; ");
                    info!(device = standing.device, ingress, egress, reasons, "forwarding stands");
                    self.standings.insert(*ifindex, standing);
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.refused.get(ifindex) != Some(&text) {
                        warn!(%error, "a device does not forward");
                    }
                    refused.insert(*ifindex, text);
                    self.standings.remove(ifindex);
                }
            }
        }
        self.refused = refused;
        self.stood = true;
        let gone: Vec<u32> = self.standings.keys().filter(|ifindex| !wanted.contains(ifindex)).copied().collect();
        for ifindex in gone {
            self.standings.remove(&ifindex);
            if let Err(error) = forward.detach(ifindex) {
                warn!(%error, ifindex, "not taken off a device");
            }
        }
        if !self.settled {
            match forward.settle(&wanted) {
                Ok(done) => {
                    self.settled = true;
                    info!(
                        flows = done.carried,
                        detached = done.detached,
                        sets = done.sets,
                        "forwarding has taken over"
                    );
                }
                Err(error) => self.trouble.error(format!("what former runs left is not removed: {error}")),
            }
        }
    }

    /// Once a second.
    pub(super) fn tick(&mut self, links: &BTreeMap<LinkId, LinkInfo>) {
        let now = Instant::from_nanos(clock::boot_ns());
        // Only here, when no order waits: loading the programs may take longer than the patience, and what sessions said meanwhile is
        // in the queue. Sessions begin when it is decided that this node forwards.
        if self.is_decided() && self.liveness.expire(now) {
            self.tell_nodes(now);
        }
        if self.forward.is_none() && self.config.is_some() && self.retry.is_some_and(|at| at <= now) {
            self.open(now);
            self.look_inside = true;
            self.write_config();
            if let (Some(_), Some(config)) = (&self.forward, &self.config) {
                self.terms.hold(&mut self.balancer, now);
                self.balancer.handle_config(config.config.clone(), now);
                self.tell_sites(now);
                self.trouble.cleared("forwarding has started after all");
            }
        }
        if !self.refused.is_empty() && self.retry.is_none_or(|at| at <= now) {
            self.retry = Some(now + RETRY);
            self.look = true;
        }
        self.check_headroom();
        self.check_standings();
        self.turn(now, links);
        self.end_terms(links);
    }

    /// Something else may take programs off a device: then they are put on again.
    fn check_standings(&mut self) {
        let Some(forward) = &self.forward else { return };
        let gone = |standing: &Standing| matches!(forward.stands(standing), Ok(false));
        let gone: Vec<u32> = self.standings.iter().filter(|(_, s)| gone(s)).map(|(ifindex, _)| *ifindex).collect();
        for ifindex in gone {
            if let Some(standing) = self.standings.remove(&ifindex) {
                warn!(device = standing.device, "something took forwarding off a device; it is put on again");
                self.healed += 1;
                self.look = true;
            }
        }
    }

    /// A driver that leaves no room before a frame shows only when frames are made longer: then tc does it.
    fn check_headroom(&mut self) {
        let Some(forward) = &self.forward else { return };
        let Ok(failures) = forward.headroom_failures() else { return };
        if failures > std::mem::replace(&mut self.headroom, failures) {
            for (ifindex, standing) in &self.standings {
                if standing.ingress == crate::handle::forward::Hook::Xdp && self.without_xdp.insert(*ifindex) {
                    warn!(device = standing.device, "{NO_HEADROOM}");
                    self.look = true;
                }
            }
            let without = self.without_xdp.clone();
            self.standings.retain(|ifindex, _| !without.contains(ifindex));
        }
    }

    /// Sessions that waited for this node begin now.
    pub(super) fn sessions_begin(&mut self, now: Instant) {
        self.liveness.begin(now);
    }

    /// A BFD session came up or ended.
    pub(super) fn path(&mut self, remote: IpAddr, session: Session, now: Instant) {
        self.liveness.heard(remote, session, now);
        self.tell_nodes(now);
    }

    /// The balancer notices by itself what is no news.
    fn tell_nodes(&mut self, now: Instant) {
        for node in self.config.iter().flat_map(|c| &c.config.nodes) {
            let up = self.liveness.is_up(node);
            if self.told.insert(node.name.clone(), up).is_some_and(|before| before != up) {
                info!(node = node.name, up, "node of the data plane");
            }
            self.balancer.handle_node(&node.name, up, now);
        }
    }
}
