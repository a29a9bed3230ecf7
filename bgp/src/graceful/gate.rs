//! When End-of-RIB may be sent: not before every route of the start is known.
//!
//! A helper (RFC 4724 section 4.2) drops what it kept of our former run when it hears End-of-RIB. Said before our configuration, gates
//! and addresses are known it makes the helper drop routes that are about to be announced again.

use core::time::Duration;

use crate::time::Instant;

/// Restart Time that the cap counts with when graceful restart is not offered, seconds: the value most speakers offer.
const USUAL_RESTART_TIME: u16 = 120;

/// The gate of one session.
///
/// Contract: made when the session becomes Established; [`Self::handle_synced`] when the start is known (or at once, if it is already);
/// [`Self::handle_timeout`] at [`Self::poll_timeout`]. Once open it stays open.
#[derive(Clone, Debug)]
pub struct EndOfRibGate {
    opens: Option<Instant>,
}

impl EndOfRibGate {
    /// For a session that became Established at `now`. `restart_time`: the seconds we offered, if graceful restart was offered. A start
    /// that takes longer than half of it opens the gate anyway: the helper's own timer would end the same way, and later.
    pub fn new(synced: bool, restart_time: Option<u16>, now: Instant) -> Self {
        let cap = Duration::from_secs(u64::from(restart_time.unwrap_or(USUAL_RESTART_TIME))) / 2;
        Self { opens: (!synced).then(|| now + cap) }
    }

    /// End-of-RIB may be sent.
    pub fn is_open(&self) -> bool {
        self.opens.is_none()
    }

    /// Every route of the start is known.
    pub fn handle_synced(&mut self) {
        self.opens = None;
    }

    /// Opens the gate when its time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.opens.is_some_and(|at| at <= now) {
            self.opens = None;
        }
    }

    /// When to come back; `None` once it is open.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.opens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(7_000_000_000);

    #[test]
    fn holds_until_synced() {
        let mut gate = EndOfRibGate::new(false, Some(120), START);
        assert!(!gate.is_open());
        gate.handle_timeout(START + Duration::from_secs(59));
        assert!(!gate.is_open());
        gate.handle_synced();
        assert!(gate.is_open());
        assert_eq!(gate.poll_timeout(), None);
    }

    #[test]
    fn opens_after_half_of_the_restart_time_at_the_latest() {
        for (offered, cap) in [(Some(120), 60), (Some(10), 5), (None, 60)] {
            let mut gate = EndOfRibGate::new(false, offered, START);
            let at = gate.poll_timeout().expect("it waits");
            assert_eq!(at, START + Duration::from_secs(cap));
            gate.handle_timeout(Instant::from_nanos(at.as_nanos() - 1));
            assert!(!gate.is_open());
            gate.handle_timeout(at);
            assert!(gate.is_open());
        }
    }

    #[test]
    fn a_session_after_the_start_never_waits() {
        assert!(EndOfRibGate::new(true, Some(120), START).is_open());
    }
}
