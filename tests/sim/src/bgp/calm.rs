//! What must be true of a quiet network: a session soon after the start, and in the end one session, the right routes and nothing else.

use bascule_bgp::config::Mode;
use bascule_bgp::io::Input;

use crate::bgp::check::Broken;
use crate::bgp::node::shown;
use crate::bgp::scenario::SECOND;
use crate::bgp::tcp::In;
use crate::bgp::world::{Ev, World};

/// After the last fault everything that may still run out: BFD patience 300 s, the wait for an OPEN 240 s, back-off 60 s.
const SETTLE: u64 = 700 * SECOND;
/// How long the quiet session is then watched.
const WATCH: u64 = 200 * SECOND;
/// Longest start: a refused attempt costs the later node ConnectRetryTime.
const START: u64 = 7 * SECOND;
/// When both dial, or the later one does, there is nothing to wait for.
const START_BOTH: u64 = 2 * SECOND;

impl World {
    pub(super) fn schedule_verdicts(&mut self) {
        let last = self.scenario.start[0].max(self.scenario.start[1]);
        let dials = |node: usize| self.scenario.configs[node].neighbors[0].mode != Mode::Passive;
        let later = usize::from(self.scenario.start[1] >= self.scenario.start[0]);
        let started = last + if dials(later) { START_BOTH } else { START };
        // With loss a handshake may take as long as it likes, and a fault may come first.
        if self.scenario.loss == 0 && self.scenario.faults.first().is_none_or(|fault| fault.at > started) {
            self.at(started, Ev::Started);
        }
        let calm = self.scenario.calm + SETTLE;
        self.at(calm, Ev::Quiet);
        self.at(calm + WATCH, Ev::End);
    }

    pub(super) fn started(&mut self) -> Result<(), (usize, Broken)> {
        (0..2).try_for_each(|node| self.established(node, "soon after the start"))
    }

    fn established(&self, node: usize, when: &str) -> Result<(), (usize, Broken)> {
        match self.nodes[node].established() {
            Some(_) => Ok(()),
            None => {
                let local = self.nodes[node].clock(self.now);
                let status = self.nodes[node].speaker.as_ref().map(|speaker| speaker.status(local));
                let shown = status.and_then(|status| status.neighbors.into_iter().next()).map(|neighbor| {
                    let session = neighbor.session;
                    format!("{when}: {:?}, {:?}, {:?}", session.state, session.waiting, session.last_error)
                });
                Err((node, Broken::NoSession(shown.unwrap_or_else(|| "no process".to_owned()))))
            }
        }
    }

    pub(super) fn quiet(&mut self) -> Result<(), (usize, Broken)> {
        for node in 0..2 {
            self.established(node, "after the quiet time")?;
        }
        self.quiet = Some([0, 1].map(|node: usize| self.nodes[node].established()));
        Ok(())
    }

    pub(super) fn end(&mut self) -> Result<(), (usize, Broken)> {
        for node in 0..2 {
            self.established(node, "at the end")?;
            if self.quiet.is_some_and(|before| before[node] != self.nodes[node].established()) {
                return Err((node, Broken::Flap));
            }
            let open = self.nodes[node].open();
            if open != 1 {
                return Err((node, Broken::Leak(open)));
            }
            self.routes_arrived(node)?;
        }
        for node in 0..2 {
            self.nodes[node].config.neighbors.clear();
            self.configure(node)?;
            let speaker = self.nodes[node].speaker.as_ref();
            if speaker.and_then(|speaker| speaker.poll_timeout()).is_some() {
                return Err((node, Broken::TimerLeak));
            }
            let open = self.nodes[node].open();
            if open != 0 {
                return Err((node, Broken::Leak(open)));
            }
            self.deliver(node, In::Input(Input::Synced))?;
        }
        Ok(())
    }

    /// What the other node received is what this one wants, and End-of-RIB came once for every family.
    fn routes_arrived(&self, node: usize) -> Result<(), (usize, Broken)> {
        let peer = &self.nodes[1 - node];
        let Some((conn, tap)) = peer.taps.iter().find(|(_, tap)| tap.established()) else { return Ok(()) };
        let wanted = self.nodes[node].wanted(tap.families());
        if tap.received.rib != wanted {
            let (held, wanted) = (shown(&tap.received.rib), shown(&wanted));
            return Err((node, Broken::Rib { held, wanted }));
        }
        for family in tap.families().iter() {
            let times = tap.received.end_of_rib.get(&family).copied().unwrap_or(0);
            if times != 1 {
                return Err((node, Broken::EndOfRib { family, times, conn: *conn }));
            }
        }
        Ok(())
    }
}
