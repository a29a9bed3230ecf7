//! What a node's actions do: to its fence, to its kernel through the netlink thread, and to the others.

use crate::faults::Point;
use crate::host::Rx;
use crate::lan::{Body, Packet};
use crate::mutant::Mutant;
use crate::scenario::MS;

use bascule_core::node::io::{Action, Input};

use super::{Event, Netlink, World};

impl World {
    pub(super) fn carry_out(&mut self, n: usize, action: Action) {
        let shown = self.hosts[n].clock.read(self.now);
        match action {
            Action::Fence(write) => {
                self.say(|| format!("n{n} fence {write:?}"));
                let checked = self.checker.on_write(n, &write, shown, self.now);
                self.broken = self.broken.take().or(checked);
                self.hosts[n].kernel.write(write);
            }
            Action::SendVrrp { slot, src, dst, payload, .. } => self.send_advert(n, slot, src, dst, payload),
            Action::SendFrame { kind, address, bytes, .. } => self.send_frame(n, kind, address, bytes),
            Action::SendPeer { src, dst, payload, .. } => {
                let what = peer_text(&payload);
                self.say(|| format!("n{n} peer -> {dst} {what}"));
                self.send(Packet { from: n, body: Body::Peer { src, payload } }, Some(dst));
                if what == "grant" {
                    self.after(n, Point::Granted);
                }
            }
            Action::Install { slot, addresses, lifetime, .. } => {
                self.ask_netlink(n, Netlink::Install(slot, addresses, lifetime));
            }
            Action::Remove { slot, addresses, .. } => self.ask_netlink(n, Netlink::Remove(slot, addresses)),
            Action::Renew { addresses, lifetime } => self.ask_netlink(n, Netlink::Renew(addresses, lifetime)),
            // No scenario has a VIP with routes: ownership is what is judged here.
            // None has a lease either: `election/lease/tests` of the core has a world for those.
            Action::Hold { .. } | Action::Release { .. } | Action::Routes(_) | Action::Elect { .. } => {}
            Action::Probe { gate, .. } => {
                let (ok, generation) = (self.hosts[n].gate, self.hosts[n].generation);
                let at = self.now + self.rng.between(MS, 20 * MS);
                self.at(at, Event::Tell(n, generation, Input::Probed { gate, ok, detail: String::new() }));
            }
            Action::Report(event) => {
                self.say(|| format!("n{n} {}", crate::trace::event(&event)));
                let verdict = self.checker.on_event(n, &event, self.victim, self.now, &self.scenario);
                self.broken = self.broken.take().or(verdict);
            }
            Action::CommandDone { result, .. } => self.say(|| format!("n{n} answers {result:?}")),
            Action::Stopped => {
                if let Some(p) = self.hosts[n].process.as_mut() {
                    p.stopped = true;
                }
            }
        }
    }

    /// Feeds what a failed action means at once, as a driver does that cannot go on without.
    pub(crate) fn feed_now(&mut self, n: usize, input: Input<'static>) {
        let (shown, mutant) = (self.hosts[n].clock.read(self.now), self.mutant);
        if let Some(p) = self.hosts[n].process.as_mut() {
            p.node.handle_input(input, shown);
            p.take_actions(mutant);
        }
    }

    /// A point that lies behind an action.
    pub(crate) fn after(&mut self, n: usize, point: Point) {
        let blow = self.hosts[n].process.as_mut().and_then(|p| p.trap(point));
        if let Some(blow) = blow {
            self.blow(n, blow);
        }
    }

    fn ask_netlink(&mut self, n: usize, work: Netlink) {
        let took = self.rng.between(50_000, 2 * MS);
        let now = self.now;
        let generation = self.hosts[n].generation;
        let Some(p) = self.hosts[n].process.as_mut() else { return };
        p.netlink.push_back(work);
        p.netlink_free = p.netlink_free.max(now) + took;
        let at = p.netlink_free;
        self.at(at, Event::Netlink(n, generation));
    }

    /// The oldest request is carried out: one task serves them in their order, as `app::tasks::work` does in the daemon.
    pub(super) fn netlink(&mut self, n: usize, generation: u64) {
        let now = self.now;
        let lifeless = self.mutant == Some(Mutant::NoLifetime);
        let host = &mut self.hosts[n];
        let shown = host.clock.read(now);
        let Some(p) = host.process.as_mut().filter(|_| host.generation == generation) else { return };
        if p.frozen {
            // The thread that serves netlink is stopped with the others.
            return self.at(now + MS, Event::Netlink(n, generation));
        }
        let Some(work) = p.netlink.pop_front() else { return };
        let long = if lifeless { shown + core::time::Duration::from_secs(3600) } else { shown };
        match work {
            Netlink::Install(slot, addresses, lifetime) => {
                addresses.iter().for_each(|a| host.kernel.install(*a, long + lifetime));
                self.say(|| format!("n{n} kernel: {addresses:?} on the link"));
                self.tell(n, Rx::Told(Input::Installed(slot)));
            }
            Netlink::Remove(slot, addresses) => {
                self.say(|| format!("n{n} kernel: {addresses:?} off the link"));
                for address in addresses {
                    if self.hosts[n].kernel.remove(address) {
                        self.lost(n, address);
                    }
                }
                self.tell(n, Rx::Told(Input::Removed(slot)));
            }
            Netlink::Renew(held, lifetime) => {
                held.iter().for_each(|(_, a)| host.kernel.install(*a, long + lifetime));
            }
        }
    }
}

pub(super) fn point_of(action: &Action) -> Option<Point> {
    match action {
        Action::Fence(_) => Some(Point::Fence),
        Action::SendVrrp { .. } => Some(Point::Advert),
        Action::SendFrame { .. } => Some(Point::Frame),
        Action::SendPeer { .. } => Some(Point::Peer),
        Action::Install { .. } | Action::Remove { .. } => Some(Point::Address),
        Action::Hold { .. }
        | Action::Release { .. }
        | Action::Routes(_)
        | Action::Elect { .. }
        | Action::Renew { .. }
        | Action::Probe { .. }
        | Action::Report(_)
        | Action::CommandDone { .. }
        | Action::Stopped => None,
    }
}

fn peer_text(payload: &[u8]) -> &'static str {
    // Byte 4 of a message is its kind; the trace needs no more.
    match payload.get(4) {
        Some(1) => "query",
        Some(2) => "offer",
        Some(3) => "grant",
        Some(4) => "move-ask",
        Some(5) => "move-challenge",
        Some(6) => "move-order",
        _ => "?",
    }
}
