//! The world's own rhythm: streams over cut links break, what the data path sees, who is asked about others, leases.

use bascule_core::site::path::io::Carriage;

use super::super::host::{LOCAL, SPREAD, id};
use super::super::link::{MS, SEC};
use super::super::mutant::Mutant;
use super::super::scene::START;
use super::{CONNECTIONS, PATIENCE, World};

impl World {
    pub(super) fn tick(&mut self, tick: u64) {
        let now = self.now;
        if self.scene.policy_off && now >= START {
            self.hosts.iter_mut().flatten().for_each(|host| host.frozen = true);
        }
        // Streams over cut links break.
        let dead: Vec<_> = self
            .streams
            .iter()
            .filter(|((a, b), (_, since, _))| {
                (self.truth.cut[*a][*b] || self.truth.cut[*b][*a]) && now - since >= PATIENCE
            })
            .map(|(pair, _)| *pair)
            .collect();
        dead.into_iter().for_each(|(a, b)| self.disconnect(a, b));
        if tick.is_multiple_of(500 * MS) {
            for site in self.running() {
                if let Some(host) = &mut self.hosts[site] {
                    host.say(now);
                    host.refresh(now);
                }
            }
        }
        if tick.is_multiple_of(SEC) {
            self.observe();
            self.others();
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

    /// Ten seconds of handshakes, in the proportions of the tables in force.
    fn observe(&mut self) {
        let sites = self.scene.sites;
        for site in self.running() {
            for other in 0..sites {
                let serves = self.truth.serves(site, other);
                let Some(host) = &mut self.hosts[site] else { continue };
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most fifty")]
                let new = (host.share(SPREAD, other) * CONNECTIONS) as u32;
                let seen = self.fails.entry((site, other)).or_default();
                let decay = |n: u32| n - n.div_ceil(10);
                seen.handshakes = decay(seen.handshakes) + new;
                seen.failed = decay(seen.failed) + if serves { 0 } else { new };
                // Each site has a part of the flows of the service by weight, and nothing fails by chance.
                seen.compared = true;
                host.observe(other, SPREAD, *seen, self.now);
                host.observe(other, LOCAL, *seen, self.now);
            }
        }
    }

    /// Who has a session with others asks them for what it does not reach.
    fn others(&mut self) {
        for site in self.running() {
            for lost in (0..self.scene.sites).filter(|o| *o != site) {
                let helpers = (0..self.scene.sites).filter(|h| *h != site && *h != lost);
                let answers: Vec<bool> = helpers
                    .filter(|h| self.streams.contains_key(&(site.min(*h), site.max(*h))))
                    .filter(|h| !self.paused[*h])
                    .filter_map(|h| {
                        let path = self.hosts[h].as_ref()?.paths.get(&lost)?;
                        Some(path.status().carriage == Carriage::Up)
                    })
                    .collect();
                let reach = (!answers.is_empty()).then(|| answers.contains(&true));
                if let Some(host) = &mut self.hosts[site] {
                    host.policy.handle_others(id(lost), reach);
                }
            }
        }
    }
}
