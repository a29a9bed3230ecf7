//! A new configuration, applied as a difference: a neighbor that did not change does not notice.

use std::collections::{BTreeMap, BTreeSet};

use core::net::IpAddr;

use super::{Neighbor, Speaker};
use crate::config::{Mode, NeighborConfig, SpeakerConfig, Transport};
use crate::io::Action;
use crate::session::collision::Identity;
use crate::session::{Session, Stop, external};
use crate::time::Instant;

/// Who may dial, and how.
type Callers = BTreeMap<IpAddr, (Transport, bool)>;

impl Speaker {
    /// Ignored on the way out: what leaves takes no orders.
    pub(super) fn configure(&mut self, config: SpeakerConfig, now: Instant) {
        if self.leave.is_some() {
            return;
        }
        let before = self.config.as_ref().map(callers).unwrap_or_default();
        let after = callers(&config);
        let names: BTreeSet<&str> = config.neighbors.iter().map(|neighbor| neighbor.name.as_str()).collect();
        for neighbor in &mut self.neighbors {
            if !names.contains(neighbor.session.config().name.as_str()) {
                neighbor.session.stop(&Stop::Deconfigured, now);
                neighbor.removed = true;
            }
        }
        self.drain_effects(now);
        let gone = before.keys().filter(|remote| !after.contains_key(*remote));
        self.actions.extend(gone.map(|remote| Action::Unlisten { remote: *remote }));
        // Before any session starts: an MD5 key must stand before the first segment of a neighbor that dials.
        for (remote, (transport, external)) in after.iter().filter(|(remote, how)| before.get(*remote) != Some(*how)) {
            let (remote, transport, external) = (*remote, transport.clone(), *external);
            self.actions.push_back(Action::Listen { remote, transport, external });
        }
        let mut seen = BTreeSet::new();
        for neighbor in config.neighbors.iter().filter(|neighbor| seen.insert(neighbor.name.as_str())) {
            self.configure_neighbor(&config, canonical(neighbor), now);
        }
        self.config = Some(config);
    }

    fn configure_neighbor(&mut self, speaker: &SpeakerConfig, config: NeighborConfig, now: Instant) {
        let local = Identity { id: speaker.router_id, asn: config.local_as.unwrap_or(speaker.asn) };
        if let Some(at) = self.neighbors.iter().position(|n| !n.removed && n.session.config().name == config.name) {
            let exported = self.neighbors[at].session.config().export.clone();
            self.neighbors[at].session.reconfigure(config, local, now);
            self.drain_effects(now);
            if self.neighbors[at].session.config().export != exported {
                self.regroup(at, now);
            }
            return;
        }
        self.serial += 1;
        let seed = self.seed.wrapping_add(self.serial.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut session = Session::new(config, local, self.former, self.serial << 32, seed, now);
        session.start(now);
        self.neighbors.push(Neighbor { session, out: None, removed: false });
    }
}

/// IPv4 neighbors are compared as IPv4, however they were written or accepted.
fn canonical(neighbor: &NeighborConfig) -> NeighborConfig {
    NeighborConfig { address: neighbor.address.to_canonical(), ..neighbor.clone() }
}

fn callers(config: &SpeakerConfig) -> Callers {
    let called = config.neighbors.iter().filter(|neighbor| neighbor.mode != Mode::Active);
    let caller = |neighbor: &NeighborConfig| {
        let external = external(neighbor, neighbor.local_as.unwrap_or(config.asn));
        (neighbor.address.to_canonical(), (neighbor.transport.clone(), external))
    };
    called.map(caller).collect()
}
