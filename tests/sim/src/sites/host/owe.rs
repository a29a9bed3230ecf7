//! What the machines of a site owe, carried out as the daemon does.

use core::time::Duration;

use bascule_core::election::lease::etcd::Request;
use bascule_core::election::lease::{Condition, LeaseElector as _, Output, Standing};
use bascule_core::site::SiteId;
use bascule_core::site::join::io::{Action, Fact, Report, Source};
use bascule_core::site::lead::{BEAT, Beat};
use bascule_core::site::path::Path;
use bascule_core::site::path::io as path;
use bascule_core::site::policy::io as policy;
use bascule_core::site::state::io as state;
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::summary::ServiceId;
use bascule_core::time::Instant;

use super::super::link::SEC;
use super::super::mutant::Mutant;
use super::super::node::{Daemon, NAMES, NODES, PLAIN, Word, fact};
use super::super::relay::Owed;
use super::{Host, Out, SERVICES, SINGLE, place};

impl Host {
    /// Carries out all actions that stay inside; gives the others.
    pub(in super::super) fn drain(&mut self, now: u64) -> Vec<Out> {
        let (at, site, sites, mut out) = (self.at(now), self.site, self.sites, Vec::new());
        loop {
            let mut idle = true;
            for other in (0..sites).filter(|other| *other != site) {
                while let Some(action) = self.paths.get_mut(&other).and_then(Path::poll_action) {
                    idle = false;
                    match action {
                        path::Action::Send { flow, payload } => out.push(Out::Datagram(other, flow, payload)),
                        path::Action::Report(event) => {
                            let back = match event {
                                path::Event::Down { silent, .. } => Duration::from_secs_f64(silent),
                                _ => Duration::ZERO,
                            };
                            let nanos = u64::try_from(back.as_nanos()).unwrap_or(0);
                            self.know_path(other, Instant::from_nanos(at.as_nanos().saturating_sub(nanos)), at);
                            self.log(&mut out, || format!("path to {other}: {event:?}"));
                        }
                    }
                }
            }
            for node in 0..NODES {
                while let Some(owed) = self.polled(node, |daemon| daemon.relay.as_mut()?.poll(at)) {
                    idle = false;
                    match owed {
                        Owed::World(owe) => out.push(Out::Relay(node, owe)),
                        Owed::Node(action) => self.record(node, action, at, &mut out),
                    }
                }
                while let Some(action) = self.polled(node, |daemon| daemon.join.poll_action()) {
                    idle = false;
                    self.joined(node, action, at, &mut out);
                }
                if self.nodes[node].frozen.is_none()
                    && let Some(daemon) = self.nodes[node].daemon.as_mut()
                    && daemon.beat_at.is_some_and(|beat| beat <= at)
                {
                    daemon.beat_at = Some(at + BEAT);
                    daemon.touched = true;
                    out.push(Out::Tell(node, Word::Beat(daemon.says)));
                }
            }
            while let Some(output) = self.elector.poll_output() {
                idle = false;
                self.elected(output, at, &mut out);
            }
            let holder = self.elector.holder().and_then(|name| name.parse().ok()).map(SiteId);
            if self.elector.is_certain() && holder != self.holder {
                idle = false;
                self.holder = holder;
                for daemon in self.daemons() {
                    daemon.touched = true;
                    daemon.join.handle_lease(SINGLE, holder, at);
                }
            }
            if idle {
                break;
            }
        }
        for daemon in self.daemons().filter(|daemon| daemon.touched) {
            daemon.touched = false;
            daemon.due = daemon.next(at);
        }
        out
    }

    /// What a machine of a node owes; nothing when nobody told it anything.
    fn polled<T>(&mut self, node: usize, poll: impl FnOnce(&mut Daemon) -> Option<T>) -> Option<T> {
        let node = &mut self.nodes[node];
        node.daemon.as_mut().filter(|daemon| daemon.touched && node.frozen.is_none()).and_then(poll)
    }

    /// What the relay of a node owes.
    fn record(&mut self, node: usize, action: state::Action, at: Instant, out: &mut Vec<Out>) {
        let said = match action {
            // Those are the matter of what is around it.
            state::Action::Dial(_) | state::Action::Send(..) => return,
            state::Action::Close(site, reason) => {
                return self.log(out, || format!("{}: session with {site} closed: {reason:?}", NAMES[node]));
            }
            state::Action::Persist(incarnation) => return self.nodes[node].persisted = incarnation,
            state::Action::Record { origin, key, body, age } => {
                if let (Key::Vip(ip), Some(_)) = (key, body) {
                    let _new = self.vips.insert((place(origin), ip));
                }
                let nothing = matches!(body, Some(Body::Service(summary)) if summary.ready == 0);
                fact(origin, key, body, age).filter(|_| !nothing || self.mutant != Some(Mutant::ZeroUnsaid))
            }
            state::Action::Ask { from, service, amount } => Some(Fact::Ask { site: from, service, amount }),
            state::Action::Lend { from, service, amount } => Some(Fact::Loan { site: from, service, amount }),
            state::Action::Reach { from, reach } => {
                let facts = reach.into_iter().map(|(of, reached)| Fact::Reach { site: from, of, reached });
                let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
                return facts.for_each(|fact| daemon.join.handle_fact(Source::Own, fact, at));
            }
            state::Action::Report(report) => {
                self.log(out, || format!("{}: {report:?}", NAMES[node]));
                match report {
                    state::Report::Session { site, up } => Some(Fact::Session { site, up }),
                    _ => None,
                }
            }
        };
        let (Some(said), Some(daemon)) = (said, self.nodes[node].daemon.as_mut()) else { return };
        daemon.join.handle_fact(Source::Own, said, at);
        if let (Fact::Session { site, up: false }, Some(Mutant::SessionDownIsSiteDown)) = (said, self.mutant) {
            for service in SERVICES {
                let nothing = Fact::Summary { site, service, summary: None, age: Duration::ZERO };
                daemon.join.handle_fact(Source::Own, nothing, at);
            }
        }
    }

    /// What the machine of a node owes.
    fn joined(&mut self, node: usize, action: Action, at: Instant, out: &mut Vec<Out>) {
        let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
        match action {
            Action::Table { service, generation: Some(generation), slots, .. } => {
                self.table(node, service, generation, &slots, at);
                self.log(out, || format!("{}: {service:?} {:?}", NAMES[node], self.nodes[node].shares.get(&service)));
            }
            Action::Lead(says) => self.lead(node, says, at, out),
            Action::Write(key, body) => {
                if let Some(relay) = &mut daemon.relay {
                    relay.state.handle_local(key, body, at);
                }
            }
            Action::Credit { to, service, amount, lend } => {
                if let Some(relay) = &mut daemon.relay {
                    relay.handle_credit(place(to), service, amount, lend);
                }
            }
            Action::Reach(mut reach) if self.mutant != Some(Mutant::ReachUnsaid) => {
                if self.mutant == Some(Mutant::ReachDenied) {
                    reach.values_mut().for_each(|reached| *reached = false);
                }
                if let Some(relay) = &mut daemon.relay {
                    relay.state.handle_reach(reach, at);
                }
            }
            Action::Publish(Fact::Summary { .. }) if self.mutant == Some(Mutant::FactsUnsaid) => {}
            Action::Publish(fact) => {
                daemon.kept.keep(fact, at);
                out.push(Out::Tell(node, Word::Fact(fact)));
            }
            Action::Say(counts) => out.push(Out::Say(node, Word::Said(counts))),
            Action::Claim(_) if node == PLAIN => {
                self.log(out, || "wants the lease".to_owned());
                self.elector.handle_standing(Standing::Fit, at);
                if self.mutant == Some(Mutant::NoAuthority) {
                    self.holds = Some(u64::MAX);
                }
            }
            Action::Release(_, reason) if node == PLAIN => {
                self.log(out, || format!("does not want the lease: {}", reason.as_str()));
                self.elector.handle_standing(Standing::Barred, at);
                if self.mutant == Some(Mutant::NoAuthority) {
                    self.holds = None;
                }
            }
            Action::Report(report) => {
                if let Report::Policy(policy::Report::Standing { service, site, .. }) = report {
                    self.nodes[node].stood.push((service, site, at));
                }
                self.log(out, || format!("{}: {report:?}", NAMES[node]));
            }
            Action::Timeline(line) => {
                if line.cause > line.detected || line.detected > line.decided || Some(line.decided) > line.applied {
                    self.log(out, || format!("{}: TIMELINE {line:?}", NAMES[node]));
                }
            }
            // Other nodes would ask for the lease as well; a planted bug says nothing; nobody drains anything, no packet asks who is near, no service goes.
            Action::Claim(_)
            | Action::Reach(_)
            | Action::Release(..)
            | Action::Table { .. }
            | Action::Neighbours(_)
            | Action::Drain { .. } => {}
        }
    }

    fn table(&mut self, node: usize, service: ServiceId, generation: u64, slots: &[SiteId], at: Instant) {
        let (sites, of) = (self.sites, &mut self.nodes[node]);
        of.written += 1;
        let off = self.frozen && of.shares.contains_key(&service);
        if off || self.mutant == Some(Mutant::TableLost) && of.written.is_multiple_of(3) {
            return;
        }
        of.apply(service, slots, sites);
        if let Some(daemon) = &mut of.daemon {
            daemon.join.handle_applied(service, generation, at);
        }
    }

    /// The relay of a node says something else of itself.
    fn lead(&mut self, node: usize, says: Beat, at: Instant, out: &mut Vec<Out>) {
        let Some(daemon) = self.nodes[node].daemon.as_mut() else { return };
        daemon.says = says;
        let led = daemon.relay.as_ref().is_some_and(|relay| relay.leads);
        if let Some(relay) = &mut daemon.relay {
            relay.handle_rank(says.leads, at);
        }
        out.push(Out::Tell(node, Word::Beat(says)));
        if says.leads != led {
            self.log(out, || format!("{} {}", NAMES[node], if says.leads { "leads" } else { "does not lead" }));
        }
    }

    /// What the elector owes, as the daemon carries it out: the deadline is the kernel's, who stands still or not.
    fn elected(&mut self, output: Output<Request>, at: Instant, out: &mut Vec<Out>) {
        if !matches!(output, Output::Send { .. }) {
            self.log(out, || format!("elector: {output:?}"));
        }
        let until = |deadline: Instant| {
            let outlives = if self.mutant == Some(Mutant::LeaseOutlived) { 2 * SEC } else { 0 };
            Some(self.clock.when(deadline) + outlives)
        };
        match output {
            _ if self.mutant == Some(Mutant::NoAuthority) => {}
            Output::Send { id, request, .. } => out.push(Out::Ask(id, request)),
            Output::Claim { epoch, deadline, .. } => (self.holds, self.term) = (until(deadline), epoch),
            Output::Extend { deadline, .. } => self.holds = until(deadline),
            Output::Close { term, .. } => {
                if self.mutant != Some(Mutant::LeaseOutlived) {
                    self.holds = None;
                }
                self.elector.handle_closed(term, at);
            }
            Output::Condition(condition) => {
                let reachable = condition == Condition::Reachable;
                self.reachable = reachable;
                for daemon in self.daemons() {
                    daemon.touched = true;
                    daemon.join.handle_authority(reachable, at);
                }
            }
            Output::Stalled(_) => {}
        }
    }
}
