//! How many probes there are: at their full rate, or few while traffic speaks for the path (ADR 0045).

use core::time::Duration;

use super::io::{Carriage, Evidence};
use super::{Path, Timer};
use crate::time::Instant;

/// While traffic speaks for the path one probe is sent in so many intervals, by the flows in turn: one a second.
const SUPPRESSED: u32 = 10;
/// Traffic has spoken when it proved so often within [`SPOKEN`] that both directions carry.
pub const ENOUGH: u32 = 20;
/// Evidence holds for so long. Together with a round trip it must stay below the time of silence that makes a path down.
pub const SPOKEN: Duration = Duration::from_millis(150);
/// Of 100 proofs, so many that did not come: above it traffic does not speak for the path and probes measure.
const AGAIN: u32 = 2;
/// Traffic must have spoken for so long before probes slow down.
pub const TRUST: Duration = Duration::from_secs(2);
/// A probe that was lost while they were few makes them many for so long, whatever traffic says: longer than loss of 5 % takes to be known (4 s), also
/// where somebody hides it by traffic of his own.
const DOUBT: Duration = Duration::from_secs(10);

impl Path {
    /// What traffic says of the path since the last report. Reports come every 100 ms or so while there is traffic ([`super::super::evidence`]).
    pub fn handle_evidence(&mut self, evidence: Evidence, now: Instant) {
        let spoke = evidence.acknowledged >= ENOUGH;
        // Probes of the other end may be few already while ours are not yet.
        if evidence.acknowledged > 0 && self.trusts(now) {
            self.alive = Some(now);
        }
        let bad = u64::from(evidence.again) * 100 > u64::from(evidence.acknowledged) * u64::from(AGAIN);
        match self.spoken {
            Some((since, last)) if spoke && !bad && now.since(last) <= SPOKEN => self.spoken = Some((since, now)),
            _ if spoke && !bad => self.spoken = Some((now, now)),
            _ if bad => self.spoken = None,
            _ => {}
        }
        self.pace(now);
        self.watch(now);
        self.timers.set(Timer::Pace, now + SPOKEN);
    }

    /// From one probe of a flow to the next.
    pub(super) fn interval(&self) -> Duration {
        let flows = u32::try_from(self.flows.iter().filter(|f| f.up).count()).unwrap_or(u32::MAX).max(1);
        if self.suppressed { self.few() * flows } else { self.config.interval }
    }

    /// From one probe to the next of any flow, while they are few.
    fn few(&self) -> Duration {
        self.config.interval * SUPPRESSED
    }

    /// When a flow sends again, so many hundredths of its time from now. While probes are few those that are up have one turn after the other: by
    /// themselves they would drift together, and nothing would be heard for long.
    pub(super) fn turn(&self, index: usize, now: Instant, part: u32) -> Instant {
        if !(self.suppressed && self.flows[index].up) {
            return now + self.interval() * part / 100;
        }
        let last = self.flows.iter().filter(|f| f.up).map(|f| f.next_at).max();
        last.unwrap_or(now).max(now) + self.few() * part / 100
    }

    /// Probes slow down while traffic speaks, and come back when it stops.
    pub(super) fn pace(&mut self, now: Instant) {
        let wanted = self.flows.iter().any(|f| f.up && f.wants_full);
        let suppress = self.trusts(now) && !wanted && self.carriage == Carriage::Up;
        if suppress != self.suppressed {
            self.suppress(suppress, now);
        }
    }

    /// This end can do without many probes of the other one, and says so: whoever sends many without asking for as many would take the other end's
    /// few for silence.
    pub(super) fn trusts(&self, now: Instant) -> bool {
        let speaks = |(since, last): (Instant, Instant)| now.since(last) < SPOKEN && last.since(since) >= TRUST;
        let calm = self.inward.1.alarm().is_none() && self.outward.1.alarm().is_none() && self.doubt <= now;
        // Whoever says that traffic gets through, probes must too, few as they are: one of them may be lost, and then the next one late.
        let longest = self.few() * 2 + self.limit();
        let heard = self.flows.iter().filter_map(|f| f.heard).max();
        self.spoken.is_some_and(speaks) && calm && heard.is_some_and(|heard| now.since(heard) <= longest)
    }

    /// The other end wants probes at full rate, or one was lost while they were few: then traffic is not believed for a while.
    pub(super) fn wake(&mut self, lost: bool, now: Instant) {
        if lost {
            self.doubt = now + DOUBT;
        }
        self.suppress(false, now);
    }

    pub(super) fn suppress(&mut self, suppress: bool, now: Instant) {
        self.suppressed = suppress;
        if !suppress {
            self.spoken = None;
            self.full_since = now;
            let (count, interval) = (u32::try_from(self.flows.len()).unwrap_or(1), self.config.interval);
            for (i, flow) in (0..count).zip(&mut self.flows) {
                flow.next_at = now + interval * i / count;
            }
            self.timers.set(Timer::Send, now);
        }
    }
}
