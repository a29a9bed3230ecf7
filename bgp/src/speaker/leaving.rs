//! Shutdown and planned restart: the steps are [`Leave`]'s, carried out here.

use core::time::Duration;

use super::{Leaving, Speaker};
use crate::event::Event;
use crate::graceful::{Ending, Leave, Step};
use crate::io::{Action, Conn};
use crate::session::{Session, Stop};
use crate::time::Instant;

impl Speaker {
    pub(super) fn shut_down(&mut self, drain: Duration, text: String, now: Instant) {
        let ending = |session: &Session| Ending::of_shutdown(graceful(session).1);
        self.leave(ending, &Stop::Shutdown(text.clone()), text, drain, now);
    }

    pub(super) fn restart(&mut self, now: Instant) {
        let ending = |session: &Session| {
            let (helper, notification) = graceful(session);
            Ending::of_restart(helper, notification)
        };
        self.leave(ending, &Stop::Restart, "restart".to_owned(), Duration::ZERO, now);
    }

    fn leave(&mut self, ending: impl Fn(&Session) -> Ending, stop: &Stop, text: String, drain: Duration, now: Instant) {
        // A second order replaces the first, which is how a drain is cut short; one that is done stays done.
        if self.leave.as_ref().is_some_and(|leaving| leaving.done) {
            return;
        }
        let mut sessions = Vec::new();
        for neighbor in &mut self.neighbors {
            match neighbor.session.established() {
                Some(conn) => {
                    let ending = ending(&neighbor.session);
                    // A hold timer that expires meanwhile must not undo the restart (RFC 4724 section 4: no NOTIFICATION).
                    neighbor.session.hush(ending == Ending::Silent);
                    sessions.push((conn, ending));
                }
                None => neighbor.session.stop(stop, now),
            }
        }
        let machine = Leave::new(sessions, drain, now);
        self.leave = Some(Leaving { machine, text, flushing: Vec::new(), step: "", done: false });
    }

    /// Carries out the steps that are due; false when there was none.
    pub(super) fn step_leaving(&mut self, now: Instant) -> bool {
        let Some(mut leaving) = self.leave.take() else { return false };
        self.watch_flushing(&mut leaving);
        let mut stepped = false;
        while let Some(step) = leaving.machine.poll_step() {
            stepped = true;
            let described = leaving.machine.describe();
            if core::mem::replace(&mut leaving.step, described) != described {
                self.actions.push_back(Action::Report(Event::Drain { step: described.to_owned() }));
            }
            match step {
                Step::Drain => {
                    if self.rib.drain() {
                        for out in self.neighbors.iter_mut().filter_map(|neighbor| neighbor.out.as_mut()) {
                            out.queue.reconsider(&self.rib, now);
                        }
                    }
                }
                Step::Withdraw(conn) => {
                    if let Some(out) = self.neighbors.iter_mut().find_map(|n| n.out.as_mut().filter(|o| o.conn == conn))
                    {
                        out.queue.retire(now);
                    }
                }
                Step::Flush(conn) => {
                    leaving.flushing.push(conn);
                    self.with_session(conn, |session| session.watch_acknowledged(conn));
                }
                Step::Close(conn, ending) => {
                    let stop = match ending {
                        Ending::Silent => Stop::Restart,
                        // The session knows by itself whether its neighbor needs the Hard Reset.
                        Ending::Cease | Ending::HardReset => Stop::Shutdown(leaving.text.clone()),
                    };
                    leaving.flushing.retain(|flushing| *flushing != conn);
                    self.with_session(conn, |session| session.stop(&stop, now));
                }
                Step::Done => leaving.done = true,
            }
        }
        self.leave = Some(leaving);
        stepped
    }

    /// Tells the machine how far the last bytes are.
    fn watch_flushing(&mut self, leaving: &mut Leaving) {
        for conn in leaving.flushing.clone() {
            let Some(neighbor) = self.neighbors.iter().find(|neighbor| neighbor.session.has(conn)) else { continue };
            let queued = neighbor.out.as_ref().is_some_and(|out| !out.queue.is_idle());
            let (pending, unacknowledged) = neighbor.session.unsent(conn);
            leaving.machine.handle_written(conn, queued, pending, unacknowledged);
        }
    }

    /// A session ended while the speaker leaves: it is not tried again.
    pub(super) fn gone_while_leaving(&mut self, at: usize, conn: Conn, now: Instant) {
        if let Some(leaving) = &mut self.leave {
            leaving.machine.handle_gone(conn);
            self.neighbors[at].session.stop(&Stop::Shutdown(leaving.text.clone()), now);
        }
    }
}

/// Whether the neighbor keeps routes over our restart, and over a NOTIFICATION too.
fn graceful(session: &Session) -> (bool, bool) {
    let graceful = session.negotiated().and_then(|agreed| agreed.graceful);
    (graceful.is_some(), graceful.is_some_and(|graceful| graceful.notification))
}
