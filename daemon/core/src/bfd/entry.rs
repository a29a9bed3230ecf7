//! A session with its place in the network: which link and address it sends from, and what its state means for others.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use super::Arrival;
use super::config::PeerConfig;
use super::io::{Action, BfdEvent, BfdUpdate, PathState, seconds};
use super::session::{Change, Params, Session};
use super::status::{Intervals, PeerStatus};
use crate::node::io::LinkInfo;
use crate::time::Instant;
use crate::types::LinkId;
use crate::wire::bfd::State;

/// Where a session sends.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Path {
    /// Absent for multihop: routing decides.
    link: Option<(LinkId, String)>,
    src: Option<IpAddr>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) config: PeerConfig,
    pub(super) session: Session,
    pub(super) source_port: u16,
    /// Why the last packet did not leave.
    pub(super) send_error: Option<String>,
    /// TTL of the last packet, when that was too small: its router may send another one than 255.
    pub(super) low_ttl: Option<u8>,
    pub(super) received: u64,
    sent: u64,
    path: Option<Path>,
    since: Instant,
    failures: u64,
    /// What was told to those who follow.
    told: PathState,
}

impl Entry {
    pub(super) fn new(config: PeerConfig, local_discr: u32, source_port: u16, seed: u64, now: Instant) -> Self {
        let params = Params { timers: config.timers(), passive: config.passive, local_discr, seed };
        let path = config.multihop.map(|_| Path { link: None, src: config.local });
        Self {
            session: Session::new(params, now),
            config,
            source_port,
            send_error: None,
            low_ttl: None,
            received: 0,
            sent: 0,
            path,
            since: now,
            failures: 0,
            told: PathState::Down,
        }
    }

    pub(super) fn set_config(&mut self, config: PeerConfig, now: Instant) {
        if config != self.config {
            self.session.set_timers(config.timers(), now);
            self.config = config;
        }
    }

    /// Finds the link and our address on it anew. Multihop sessions are routed.
    pub(super) fn find_path(&mut self, links: &[LinkInfo], now: Instant) {
        if self.config.multihop.is_some() {
            return;
        }
        let path = find_path(&self.config, links);
        if path != self.path {
            self.path = path;
            // A packet that found no way out was lost: the peer hears us now, not at the next interval.
            self.session.repeat(now);
        }
    }

    /// A packet that names no session may be for this one (RFC 5881 section 3, RFC 5883 section 4).
    pub(super) fn fits(&self, arrival: &Arrival) -> bool {
        let link = match (&self.path, self.config.multihop) {
            (_, Some(_)) => true,
            (Some(Path { link: Some((id, _)), .. }), None) => *id == arrival.link,
            (_, None) => false,
        };
        link && self.config.multihop.is_some() == arrival.multihop
            && self.config.remote == arrival.src
            && self.config.local.is_none_or(|local| local == arrival.dst)
    }

    /// Turns what the session owes into actions; returns how many packets were sent.
    pub(super) fn collect(&mut self, actions: &mut VecDeque<Action>, now: Instant) -> u64 {
        let mut sent = 0;
        while let Some(packet) = self.session.poll_packet() {
            // Without a way out there is nothing to send; the change of path repeats it.
            let Some(path) = &self.path else { continue };
            sent += 1;
            self.send_error = None;
            actions.push_back(Action::Send {
                peer: self.config.name.clone(),
                link: path.link.as_ref().map(|(id, _)| *id),
                src: path.src,
                dst: self.config.remote,
                multihop: self.config.multihop.is_some(),
                source_port: self.source_port,
                payload: packet.encode(),
            });
        }
        self.sent += sent;
        while let Some(change) = self.session.poll_change() {
            self.since = now;
            self.tell(&change, actions);
        }
        sent
    }

    fn tell(&mut self, change: &Change, actions: &mut VecDeque<Action>) {
        let state = match (change.to, change.remote_state) {
            (State::Up, _) => PathState::Up,
            (State::AdminDown, _) | (State::Down, State::AdminDown) => PathState::AdminDown,
            (State::Down | State::Init, _) => PathState::Down,
        };
        if change.from == State::Up && state == PathState::Down {
            self.failures += 1;
        }
        actions.push_back(Action::Report(BfdEvent {
            peer: self.config.name.clone(),
            remote: self.config.remote,
            from: change.from,
            to: change.to,
            diag: change.diag,
            remote_state: change.remote_state,
            remote_diag: change.remote_diag,
            detection: change.expiry.map(|e| seconds(e.detection)),
            lateness: change.expiry.map(|e| seconds(e.late)),
        }));
        if state != self.told {
            self.told = state;
            let peer = self.config.name.clone();
            actions.push_back(Action::Update(BfdUpdate { peer, state, failures: self.failures }));
        }
    }

    pub(super) fn status(&self, now: Instant) -> PeerStatus {
        let session = &self.session;
        let (wanted, remote) = (session.wanted(), session.remote());
        let missing = self.path.is_none().then(|| missing(&self.config));
        PeerStatus {
            name: self.config.name.clone(),
            remote: self.config.remote,
            local: self.path.as_ref().and_then(|p| p.src).or(self.config.local),
            interface: self.path.as_ref().and_then(|p| p.link.as_ref()).map(|(_, name)| name.clone()),
            min_ttl: self.config.multihop,
            state: session.state(),
            since_seconds: seconds(now.since(self.since)),
            diag: session.diag(),
            remote_state: session.remote_state(),
            remote_diag: session.remote_diag(),
            local_discriminator: session.local_discr(),
            remote_discriminator: remote.map(|r| r.discr),
            source_port: self.source_port,
            transmit_interval_ms: session.transmit_interval().map(ms),
            detection_time_ms: session.detection_time().map(ms),
            wanted: Intervals {
                desired_min_tx_ms: micros(wanted.desired_min_tx),
                required_min_rx_ms: micros(wanted.required_min_rx),
                multiplier: wanted.multiplier,
            },
            announced_by_peer: remote.map(|r| Intervals {
                desired_min_tx_ms: micros(r.desired_min_tx),
                required_min_rx_ms: micros(r.required_min_rx),
                multiplier: r.multiplier,
            }),
            polling: session.polling(),
            remote_demand: remote.is_some_and(|r| r.demand),
            failures: self.failures,
            sent: self.sent,
            received: self.received,
            condition: missing.or_else(|| self.send_error.clone()).or_else(|| self.too_far()),
        }
    }

    /// What an operator must know of a peer that is heard and not believed. An Up session has better evidence than one stray packet.
    fn too_far(&self) -> Option<String> {
        let (ttl, least) = (self.low_ttl?, self.config.multihop?);
        (self.session.state() != State::Up)
            .then(|| format!("packets arrive with TTL {ttl}, below the least of {least} (multihop, minimumTtl)"))
    }
}

/// The link and our address on it, for a single-hop session.
fn find_path(config: &PeerConfig, links: &[LinkInfo]) -> Option<Path> {
    let named = |l: &&LinkInfo| config.interface.as_ref().is_none_or(|name| *name == l.name);
    // A link-local address is on every link: only a name decides.
    let scoped = matches!(config.remote, IpAddr::V6(a) if a.is_unicast_link_local());
    links.iter().filter(named).filter(|l| !scoped || config.interface.as_ref() == Some(&l.name)).find_map(|l| {
        let near = l.addresses.iter().filter(|n| n.contains(&config.remote)).map(ipnet::IpNet::addr);
        let src = match config.local {
            // A peer outside every subnet is reached by the name of the link alone.
            Some(local) => {
                let here = l.addresses.iter().any(|n| n.addr() == local);
                here.then_some(local).filter(|_| config.interface.is_some() || near.clone().next().is_some())
            }
            None => near.clone().next(),
        };
        src.map(|src| Path { link: Some((l.id, l.name.clone())), src: Some(src) })
    })
}

/// Why no link was found.
fn missing(config: &PeerConfig) -> String {
    let link =
        config.interface.as_ref().map_or_else(|| "no link".to_owned(), |name| format!("link {name} is missing or"));
    match config.local {
        Some(local) => format!("{link} has the address {local} near {}", config.remote),
        None => format!("{link} has an address in the subnet of {}", config.remote),
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn micros(us: u32) -> f64 {
    f64::from(us) / 1000.0
}
