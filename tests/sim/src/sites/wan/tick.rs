//! The world's own rhythm: sessions are looked after, what the data path sees, leases.

use super::super::host::SPREAD;
use super::super::link::{MS, SEC};
use super::super::mutant::Mutant;
use super::super::scene::START;
use super::{CONNECTIONS, LOOK, World};

impl World {
    pub(super) fn tick(&mut self, tick: u64) {
        let now = self.now;
        if self.scene.policy_off && now >= START {
            self.hosts.iter_mut().flatten().for_each(|host| host.frozen = true);
        }
        if tick.is_multiple_of(SEC) {
            for site in self.running() {
                if let Some(host) = &mut self.hosts[site] {
                    host.look(now);
                    host.haunt(now);
                }
            }
        }
        if tick.is_multiple_of(500 * MS) {
            for site in self.running() {
                if let Some(host) = &mut self.hosts[site] {
                    host.say(now);
                    host.refresh(now);
                }
            }
        }
        self.authority(tick);
    }

    /// The site reaches a member that has a majority. Members are sites 0 and 1 and the witness.
    pub(super) fn majority(&self, site: usize) -> bool {
        let way = |from: usize, to: usize| {
            let open = from == to || !(self.truth.cut[from][to] || self.truth.cut[to][from]);
            open && self.truth.alive[from] && self.truth.alive[to]
        };
        let witness = |of: usize| self.witness[of] && self.truth.alive[of];
        let (both, first, second) = (way(0, 1), witness(0), witness(1));
        (way(site, 0) && (both || first)) || (way(site, 1) && (both || second)) || (witness(site) && (first || second))
    }

    /// The authority answers it.
    pub(super) fn answered(&self, site: usize) -> bool {
        let whole = self.mutant != Some(Mutant::WitnessNeeded) || self.witness.contains(&true);
        whole && self.majority(site)
    }

    /// What the data path of each node sees of handshakes, by its tables in force.
    pub(super) fn observe(&mut self) {
        let (sites, now) = (self.scene.sites, self.now);
        for site in self.running() {
            let serves: Vec<bool> = (0..sites).map(|other| self.truth.serves(site, other)).collect();
            let Some(host) = &mut self.hosts[site] else { continue };
            for node in host.running().map(|(node, ..)| node).collect::<Vec<_>>() {
                let new = CONNECTIONS * LOOK as f64 / SEC as f64;
                let sent: Vec<f64> = (0..sites).map(|other| host.nodes[node].share(SPREAD, other) * new).collect();
                host.observe(node, &sent, &serves, now);
            }
        }
    }
}
