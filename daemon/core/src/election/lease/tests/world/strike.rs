//! Faults of processes, of the network and of the store.

use super::*;

impl<S: Store> World<S> {
    pub(super) fn fault(&mut self, what: u64) {
        let n = usize::try_from(what / 16 % 3).expect("small");
        // Whoever owns is hit more often.
        let owner = (0..3).find(|n| self.open(*n));
        let n = owner.filter(|_| !self.rng.one_in(4)).unwrap_or(n);
        let length = self.rng.below(12 * S);
        let until = (self.now + length).min(self.faults_until);
        self.note(|| format!("fault {} of {n} until {:?}", what % 10, Duration::from_nanos(until)));
        match what % 10 {
            0 | 1 => self.freeze(n, until),
            2 => self.nodes[n].cut = until,
            3 => self.hung = until,
            4 => self.failing = until,
            5 => self.throttling = until,
            6 => self.storm = until,
            // A drain of a party, or of one of its nodes, or one that not all hear of at once; and its end.
            7 if self.store.hands_over() => {
                let (party, all) = (self.store.party(n), !self.rng.one_in(4));
                for m in (0..3).filter(|m| *m == n || all && self.store.party(*m) == party).collect::<Vec<_>>() {
                    let (told, back) = (self.now + self.rng.below(S), until + self.rng.below(S));
                    self.at(told, Event::Told(m, Standing::Leaving));
                    self.at(back, Event::Told(m, Standing::Fit));
                }
            }
            7 => {
                self.store.delete();
                self.announce();
            }
            8 => {
                for n in 0..3 {
                    if self.nodes[n].watching && self.nodes[n].frozen.is_none() {
                        self.nodes[n].watching = false;
                        let now = self.local(n);
                        self.nodes[n].machine.handle_watch(S::ended(), now);
                        self.settle(n);
                    }
                }
            }
            _ if self.nodes[n].frozen.is_some() => {}
            _ if self.rng.one_in(3) => {
                let now = self.local(n);
                self.nodes[n].machine.handle_stop(now);
                self.settle(n);
                let when = self.now + self.rng.below(S);
                self.at(when, Event::Restart(n));
            }
            _ => self.restart(n),
        }
    }

    /// The process dies and a new one starts; one time in three the machine does.
    pub(super) fn restart(&mut self, n: usize) {
        let reboot = self.rng.one_in(3);
        let node = &mut self.nodes[n];
        node.frozen = None;
        node.life += 1;
        node.watching = false;
        node.owed.clear();
        node.inbox.clear();
        if reboot {
            node.boot += 1;
            node.fence = Fence::default();
        }
        node.machine = self.store.machine(n, node.boot, node.term, u64::from(node.life));
        let now = self.local(n);
        self.nodes[n].machine.handle_start(now);
        self.settle(n);
    }

    pub(super) fn freeze(&mut self, n: usize, until: u64) {
        if self.nodes[n].frozen.is_none() {
            self.nodes[n].frozen = Some(self.now);
            self.at(until, Event::Thaw(n));
        }
    }

    pub(super) fn thaw(&mut self, n: usize) {
        let Some(since) = self.nodes[n].frozen.take() else { return };
        if self.mutant == Some(Mutant::SuspendedClock) {
            self.nodes[n].lost += self.now - since;
        }
        let owed = std::mem::take(&mut self.nodes[n].owed);
        for output in owed {
            self.perform(n, output, None);
        }
        for event in std::mem::take(&mut self.nodes[n].inbox) {
            self.step(event);
        }
        self.settle(n);
    }
}
