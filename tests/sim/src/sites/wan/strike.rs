//! A fault strikes.

use super::super::link::Loss;
use super::super::node::{NODES, RELAYS};
use super::super::scene::Fault;
use super::World;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        self.log(usize::MAX, &format!("{fault:?}"));
        let now = self.now;
        match fault {
            Fault::Loss(from, to, loss) => {
                self.links[from][to].set(loss, now);
                let cut = loss == Loss::All;
                if self.truth.cut[from][to] != cut {
                    self.truth.cut[from][to] = cut;
                    self.truth.changed = now;
                    // What waited in the streams goes on, or will break.
                    self.relinked(from, to);
                }
            }
            Fault::Slower(times) => self.slower = times,
            Fault::Buffer(from, to, buffer) => drop(self.buffers.insert((from, to), buffer)),
            Fault::Kill(site) => {
                if let Some(host) = self.hosts[site].take() {
                    self.disks[site] = core::array::from_fn(|node| host.nodes[node].persisted);
                }
                self.unheard(site, None);
                self.truth.alive[site] = false;
                self.truth.changed = now;
                // A dead process's kernel says so, where the link lets it.
                self.hang_up_all(site);
            }
            Fault::Start(site, wiped) => {
                if wiped {
                    self.disks[site] = [0; NODES];
                }
                self.start(site);
                self.truth.changed = now;
            }
            Fault::Witness(site, there) => match site {
                Some(site) => self.witness[site] = there,
                None => self.witness.iter_mut().for_each(|w| *w = there),
            },
            Fault::Relays(there) => {
                let all = (0..self.scene.sites).flat_map(|site| RELAYS.map(move |node| (site, node)));
                all.for_each(|(site, node)| if there { self.rise(site, node) } else { self.fall(site, node) });
            }
            Fault::Relay(site, node, true) => self.rise(site, node),
            Fault::Relay(site, node, false) => self.fall(site, node),
            Fault::Stop(site, node) => self.stop(site, node),
            Fault::Freeze(site, node, true) => self.freeze(site, node),
            Fault::Freeze(site, node, false) => self.thaw(site, node),
            Fault::Ready(site, ready) => {
                self.truth.ready[site] = ready;
                self.truth.changed = now;
                self.said[site] = now;
                self.news[site].push(if ready { 10 } else { 0 });
                if let Some(host) = &mut self.hosts[site] {
                    host.ready = if ready { 10 } else { 0 };
                    host.say(now);
                }
            }
            Fault::BlackHole(site, hole) => {
                self.truth.hole[site] = hole;
                self.truth.changed = now;
            }
            Fault::Mute(site, mute) => {
                if let Some(host) = &mut self.hosts[site] {
                    host.mute = mute;
                }
            }
            Fault::Noise(noise) => self.noise = noise,
            Fault::Pause(site, paused) => self.pause(site, paused),
            Fault::Upgrade(site, newest) => self.upgrade(site, newest),
        }
    }
}
