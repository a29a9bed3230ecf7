//! A process that does not run for a while: its sockets fill, time goes on, and so does what the kernel does for it (its tables, its deadlines).

use super::{Event, World};

/// Datagrams that a process's sockets hold for it; later ones are lost (Linux' default of 212,992 bytes, some 800 bytes for each small packet).
const ROOM: usize = 256;

impl World {
    pub(super) fn pause(&mut self, site: usize, paused: bool) {
        self.paused[site] = paused;
        if paused {
            self.due[site] = None;
            return;
        }
        for event in std::mem::take(&mut self.waiting[site]) {
            self.deliver(event);
        }
        if let Some(host) = &mut self.hosts[site] {
            host.woke = self.now;
        }
        self.touched[site] = true;
    }

    /// What arrives for a process that runs; for one that does not, it waits.
    pub(super) fn arrived(&mut self, event: Event) -> Option<Event> {
        let node = self.addressee(&event);
        if let Some(waiting) = node.and_then(|at| self.frozen.get_mut(&at)) {
            waiting.push(event);
            return None;
        }
        let (to, datagram) = match (&event, node) {
            (Event::Datagram { to, .. }, _) => (*to, true),
            (Event::Mail { site, number }, _) if self.is_answer(*number) => (*site, false),
            (_, Some((site, _))) => (site, false),
            // Who greets must run: looked at there. What is for nobody any more comes to nothing.
            _ => return Some(event),
        };
        if !self.paused[to] {
            return Some(event);
        }
        let waiting = &mut self.waiting[to];
        if !datagram || waiting.len() < ROOM {
            waiting.push(event);
        }
        None
    }

    /// Sites whose daemons run, in their order.
    pub(super) fn running(&self) -> impl Iterator<Item = usize> + use<> {
        let runs: Vec<usize> =
            (0..self.scene.sites).filter(|site| self.hosts[*site].is_some() && !self.paused[*site]).collect();
        runs.into_iter()
    }
}
