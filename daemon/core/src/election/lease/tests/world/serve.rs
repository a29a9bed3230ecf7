//! What the store does with a request, and what it tells whoever watches.

use super::*;

impl<S: Store> World<S> {
    /// A request is at the store.
    pub(super) fn arrive(&mut self, n: usize, life: u32, id: RequestId, request: Req<S>) {
        if self.now < self.hung {
            let later = self.hung + self.rng.below(50 * MS);
            self.at(later, Event::Arrive(n, life, id, request));
            return;
        }
        if S::is_watch(&request) {
            return;
        }
        self.outcome.requests += 1;
        let answer = if self.now < self.failing && self.rng.one_in(2) {
            // Half of the failed ones were done all the same.
            if self.rng.one_in(2) {
                let _done = self.store.serve(n, &request, self.now, self.mutant);
            }
            S::failed(Failure::Unavailable)
        } else if self.now < self.throttling && self.rng.one_in(2) {
            let retry_after = Some(Duration::from_secs(self.rng.below(3)));
            S::failed(Failure::Throttled { retry_after })
        } else {
            self.store.serve(n, &request, self.now, self.mutant)
        };
        self.note(|| format!("{n}'s {request:?} is answered {answer:?}"));
        self.announce();
        let copies = if self.rng.one_in(20) { 2 } else { 1 };
        for _ in 0..copies {
            let when = self.now + self.delay();
            self.at(when, Event::Answer(n, life, id, answer.clone()));
        }
    }

    /// Tells the watchers.
    pub(super) fn announce(&mut self) {
        for change in self.store.changes() {
            for n in 0..3 {
                if self.nodes[n].watching {
                    let (life, when) = (self.nodes[n].life, self.now + self.delay());
                    self.at(when, Event::Watched(n, life, change.clone()));
                }
            }
        }
    }
}
