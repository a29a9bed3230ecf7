//! Planned faults, as they happen.

use bascule_core::node::io::{Command, Input};

use crate::faults::{Fault, Planned, Point, Target};
use crate::scenario::link;

use super::{Event, World};

impl World {
    pub(super) fn fault(&mut self, planned: &Planned) {
        let n = match planned.target {
            Target::Node(n) => n,
            Target::Owner(g) => self.victim.unwrap_or_else(|| self.owner(g).unwrap_or(0)),
            Target::OwnerNow(g) => self.owner(g).unwrap_or(0),
            Target::Victim => self.victim.unwrap_or(0),
        };
        if planned.target != Target::Node(n) || self.victim.is_none() {
            self.victim = Some(n);
        }
        self.say(|| format!("FAULT n{n} {:?}", planned.fault));
        let generation = self.hosts[n].generation;
        let command = |id, command| Input::Command { id, command };
        match &planned.fault {
            Fault::Strike(Point::Now, blow) => self.blow(n, *blow),
            Fault::Strike(point, blow) => {
                if let Some(p) = self.hosts[n].process.as_mut() {
                    p.traps.push((*point, *blow));
                }
            }
            Fault::Start => self.boot(n),
            Fault::Stop => self.handle(Event::Tell(n, generation, command(1, Command::Stop))),
            Fault::Drain(on) => {
                self.hosts[n].drained = *on;
                let what = if *on { Command::Drain } else { Command::Undrain };
                self.handle(Event::Tell(n, generation, command(2, what)));
            }
            Fault::Move(group, to) => {
                let what = Command::Move { vip: format!("g{group}"), to: format!("n{to}") };
                self.handle(Event::Tell(n, generation, command(3, what)));
            }
            Fault::Link { up, carrier } => {
                self.lan.set_link(n, *up);
                if *carrier {
                    self.hosts[n].carrier = *up;
                    self.handle(Event::Tell(n, generation, Input::Link(link(n, *up))));
                }
            }
            Fault::OneWay { out, into } => self.lan.set_one_way(n, *out, *into),
            Fault::Weather { loss, duplicate, jitter } => self.lan.set_weather(*loss, *duplicate, *jitter),
            Fault::Split(mask) => {
                let checker = core::mem::take(&mut self.checker);
                let verdict = checker.before_split(self);
                self.checker = checker;
                self.broken = self.broken.take().or(verdict);
                self.lan.split(*mask);
                self.checker.split(self.now);
            }
            Fault::Gate(ok) => self.hosts[n].gate = *ok,
            Fault::Reload(change) => {
                let (pristine, count) = (self.scenario.nodes[n].config.clone(), self.hosts.len());
                crate::reload::apply(&mut self.hosts[n].config, &pristine, *change, n, count);
                let config = self.hosts[n].config.clone();
                self.handle(Event::Tell(n, generation, Input::Config(Box::new(config))));
            }
        }
    }

    /// Who answers for a group's first address.
    fn owner(&self, group: usize) -> Option<usize> {
        let vip = *self.scenario.nodes[0].config.groups.get(group)?.addresses.first()?;
        self.hosts.iter().position(|h| h.kernel.answers(vip, h.clock.read(self.now)))
    }
}
