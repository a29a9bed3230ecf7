//! A fault strikes.

use super::super::link::Loss;
use super::super::node::{NODES, RELAYS};
use super::super::scene::Fault;
use super::{Event, PATIENCE, World};

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
                    // What waited in the stream goes on, or will break.
                    if let Some(stream) = self.streams.get_mut(&(from.min(to), from.max(to))) {
                        stream.since = now;
                    }
                    for (from, to, bytes) in std::mem::take(&mut self.held) {
                        self.stream(from, to, bytes);
                    }
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
                let gone: Vec<_> = self.streams.keys().filter(|(a, b)| *a == site || *b == site).copied().collect();
                for (a, b) in gone {
                    let Some(stream) = self.streams.remove(&(a, b)) else { continue };
                    let (other, node) = if a == site { (b, stream.ends[1]) } else { (a, stream.ends[0]) };
                    // A dead process's kernel says so, where the link lets it.
                    let wait = if self.truth.cut[site][other] { PATIENCE } else { self.delay[site][other] };
                    self.put(now + wait, Event::Refused { from: other, node, to: site });
                }
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
            Fault::Ready(site, ready) => {
                self.truth.ready[site] = ready;
                self.truth.changed = now;
                self.said[site] = now;
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
