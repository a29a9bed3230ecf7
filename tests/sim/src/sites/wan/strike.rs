//! A fault strikes.

use super::super::link::Loss;
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
                    for ((a, b), stream) in &mut self.streams {
                        if (*a, *b) == (from.min(to), from.max(to)) {
                            stream.1 = now;
                        }
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
                    self.disks[site] = host.persisted;
                }
                self.truth.alive[site] = false;
                self.truth.changed = now;
                let gone: Vec<_> = self.streams.keys().filter(|(a, b)| *a == site || *b == site).copied().collect();
                for (a, b) in gone {
                    let _gone = self.streams.remove(&(a, b));
                    let other = if a == site { b } else { a };
                    // A dead process's kernel says so, where the link lets it.
                    let wait = if self.truth.cut[site][other] { PATIENCE } else { self.delay[site][other] };
                    self.put(now + wait, Event::Refused { from: other, to: site });
                }
            }
            Fault::Start(site, wiped) => {
                if wiped {
                    self.disks[site] = 0;
                }
                self.start(site);
                self.truth.changed = now;
            }
            Fault::Witness(site, there) => match site {
                Some(site) => self.witness[site] = there,
                None => self.witness.iter_mut().for_each(|w| *w = there),
            },
            Fault::Relays(there) => {
                self.relays = there;
                if !there {
                    for (a, b) in self.streams.keys().copied().collect::<Vec<_>>() {
                        self.disconnect(a, b);
                    }
                }
            }
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
