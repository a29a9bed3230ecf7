//! What a node carries out, as its driver does it: in order, late, or with a planted bug; and the fence that is judged by it.

use super::*;

impl<S: Store> World<S> {
    pub(super) fn settle(&mut self, n: usize) {
        self.carry_out(n, None);
    }

    /// Carries out what the machine owes, unless the process is held up right after it has decided.
    pub(super) fn carry_out(&mut self, n: usize, answered: Option<RequestId>) {
        let outputs: Vec<_> = core::iter::from_fn(|| self.nodes[n].machine.poll_output()).collect();
        if self.now < self.faults_until && !outputs.is_empty() && self.rng.one_in(200) {
            let until = (self.now + self.rng.below(12 * S)).min(self.faults_until);
            self.freeze(n, until);
            self.nodes[n].owed.extend(outputs);
            return;
        }
        for output in outputs {
            self.perform(n, output, answered);
        }
        if let Some(due) = self.nodes[n].machine.poll_timeout() {
            let when = self.truth(n, due);
            self.at(when, Event::Wake(n));
        }
    }

    pub(super) fn perform(&mut self, n: usize, output: Output<Req<S>>, answered: Option<RequestId>) {
        let life = self.nodes[n].life;
        self.note(|| format!("{n} owes {output:?}"));
        match output {
            Output::Send { id, request, .. } => {
                if S::is_watch(&request) {
                    self.nodes[n].watching = true;
                    return;
                }
                let now = self.local(n);
                let node = &mut self.nodes[n];
                let _new = node.sent.insert(id, (now, request.clone()));
                node.latest = id;
                if self.now >= node.cut {
                    let when = self.now + self.delay();
                    self.at(when, Event::Arrive(n, life, id, request));
                }
            }
            Output::Claim { term, deadline, .. } => {
                self.nodes[n].term = term;
                let deadline = self.distorted(n, deadline, answered);
                self.nodes[n].fence = Fence { term, deadline };
                self.outcome.claims += 1;
                self.judge(n);
                let next = self.leaves != Some(self.store.party(n));
                if let Some(died) = self.died.filter(|_| next && self.outcome.takeover.is_none()) {
                    self.outcome.takeover = Some(Duration::from_nanos(self.now.saturating_sub(died)));
                }
            }
            Output::Extend { term, deadline } => {
                let deadline = self.distorted(n, deadline, answered);
                if self.nodes[n].fence.term == term {
                    self.nodes[n].fence.deadline = deadline;
                }
                self.judge(n);
            }
            Output::Close { term, .. } => {
                if self.mutant == Some(Mutant::ReleasesFirst) {
                    self.at(self.now + 200 * MS, Event::ShutLate(n, term));
                    self.at(self.now, Event::Closed(n, life, term));
                } else {
                    self.nodes[n].fence.deadline = Instant::ZERO;
                    let when = self.now + self.rng.below(50 * MS);
                    self.at(when, Event::Closed(n, life, term));
                }
            }
            Output::Condition(_) | Output::Stalled(_) => {}
        }
    }

    fn distorted(&self, n: usize, deadline: Instant, answered: Option<RequestId>) -> Instant {
        let duration = self.store.duration();
        match self.mutant {
            Some(Mutant::NoMargin) => deadline + (duration - hold_max(duration)),
            Some(Mutant::FromAnswer) => {
                let sent = answered.and_then(|id| self.nodes[n].sent.get(&id)).map(|(sent, _)| *sent);
                sent.map_or(deadline, |sent| deadline + self.local(n).since(sent))
            }
            _ => deadline,
        }
    }

    /// Nobody else's fence is open while this one is.
    fn judge(&mut self, n: usize) {
        if !self.open(n) {
            return;
        }
        if let Some(other) = (0..3).find(|m| self.store.party(*m) != self.store.party(n) && self.open(*m)) {
            let t = Duration::from_nanos(self.now);
            let trace = self.trace.make_contiguous().join("\n");
            self.outcome.violation = Some(format!("at {t:?} the fences of {n} and {other} are open\n{trace}"));
        }
    }
}
