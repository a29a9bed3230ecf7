//! From single probes to slots: when each was sent, which were lost, and how many holes that makes.

use core::time::Duration;
use std::collections::VecDeque;

use crate::time::Instant;

/// Resolution of a slot's picture. Three probes of a path at full rate; losses in neighbouring bins are one event.
const BIN: u64 = 50_000_000;
/// Bins of a slot.
const BINS: u64 = 10;
/// Length of a slot (sites.md 4.6).
pub const SLOT: Duration = Duration::from_millis(500);
/// A loss is noticed by the next probe of its flow: two intervals at full rate, and a half for jitter.
const GRACE: Duration = Duration::from_millis(250);
/// Probes that a slot needs to count (sites.md 4.6).
const ENOUGH: u32 = 5;
/// Events that a slot counts at most: more of them are no more evidence that the next slot is bad too.
const MOST: u32 = 3;

/// What became of the probes sent within 500 ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Slot {
    /// Probes sent.
    pub sent: u32,
    /// Of these, lost.
    pub lost: u32,
    /// Runs of neighbouring bins with a loss that began in this slot, at most 3.
    pub events: u32,
}

impl Slot {
    /// Enough probes to say anything.
    pub const fn counts(&self) -> bool {
        self.sent >= ENOUGH
    }

    /// Counts, and at least half arrived.
    pub const fn good(&self) -> bool {
        self.counts() && self.lost * 2 <= self.sent
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Bin {
    sent: u32,
    lost: u32,
}

/// The picture of one direction. Probes are noted at the time they were sent (or would have arrived), losses when they are noticed.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// Number of the first bin kept; a multiple of [`BINS`].
    first: u64,
    bins: VecDeque<Bin>,
    /// The last bin before `first` had a loss.
    hole: bool,
}

impl Slots {
    /// A probe of time `at`; too late when its slot is closed.
    pub(super) fn note(&mut self, at: Instant, lost: bool) {
        if let Some(bin) = self.bin(at) {
            bin.sent += 1;
            bin.lost += u32::from(lost);
        }
    }

    /// A probe of about `at` that was noted as lost had only been overtaken.
    pub(super) fn found(&mut self, at: Instant) {
        let Some(bin) = self.bin(at) else { return };
        bin.lost = bin.lost.saturating_sub(1);
    }

    fn bin(&mut self, at: Instant) -> Option<&mut Bin> {
        let number = at.as_nanos() / BIN;
        if self.bins.is_empty() {
            self.first = self.first.max(number / BINS * BINS);
        }
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        // A clock that leaps (a frozen machine) must not fill memory: a minute of bins is far beyond any grace.
        if index > 1200 {
            self.bins.clear();
            self.first = number / BINS * BINS;
            return self.bin(at);
        }
        if index >= self.bins.len() {
            self.bins.resize(index + 1, Bin::default());
        }
        self.bins.get_mut(index)
    }

    /// The oldest slot, once nothing more is expected of it; `delay` is how long news of a probe takes beyond the grace.
    pub(super) fn close(&mut self, now: Instant, delay: Duration) -> Option<Slot> {
        let end = Instant::from_nanos((self.first + BINS) * BIN);
        if self.bins.is_empty() || now < end + GRACE + delay {
            return None;
        }
        self.first += BINS;
        let mut slot = Slot::default();
        for _ in 0..BINS {
            let bin = self.bins.pop_front().unwrap_or_default();
            slot.sent += bin.sent;
            slot.lost += bin.lost;
            let hole = bin.lost > 0;
            slot.events += u32::from(hole && !self.hole);
            // A bin without probes does not end a hole.
            self.hole = hole || (self.hole && bin.sent == 0);
        }
        // A hole that began earlier and swallowed most of this slot is news as well.
        if slot.events == 0 && slot.lost * 2 > slot.sent {
            slot.events = 1;
        }
        slot.events = slot.events.min(MOST);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn picture(lost: impl Fn(u64) -> bool) -> Vec<Slot> {
        let mut slots = Slots::default();
        (0..1500).step_by(17).for_each(|t| slots.note(ms(t), lost(t)));
        let mut out = Vec::new();
        while let Some(slot) = slots.close(ms(9000), Duration::ZERO) {
            out.push(slot);
        }
        out
    }

    #[test]
    fn a_burst_is_one_event_also_across_a_border() {
        let inside: Vec<u32> = picture(|t| (600..800).contains(&t)).iter().map(|s| s.events).collect();
        let across: Vec<u32> = picture(|t| (400..600).contains(&t)).iter().map(|s| s.events).collect();
        assert_eq!((inside, across), (vec![0, 1, 0], vec![1, 0, 0]));
        let three: Vec<u32> = picture(|t| t / 100 % 2 == 0).iter().map(|s| s.events).collect();
        assert_eq!(three, [3, 2, 3], "five holes count as three");
        let long: Vec<u32> = picture(|t| (300..990).contains(&t)).iter().map(|s| s.events).collect();
        assert_eq!(long, [1, 1, 0], "a hole over most of the next slot counts again");
    }

    #[test]
    fn a_slot_waits_for_late_news_and_then_takes_none() {
        let mut slots = Slots::default();
        (0..500).step_by(50).for_each(|t| slots.note(ms(t), false));
        assert_eq!(slots.close(ms(749), Duration::ZERO), None);
        slots.note(ms(420), true);
        slots.found(ms(420));
        assert_eq!(slots.close(ms(750), Duration::ZERO), Some(Slot { sent: 11, lost: 0, events: 0 }));
        slots.note(ms(430), true);
        assert_eq!(slots.close(ms(9000), Duration::ZERO), None, "what comes after closing is not counted");
    }
}
