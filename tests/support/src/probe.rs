//! What a prober saw: gaps, losses, who answered, and how late the prober itself was.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::Stamp;

/// One probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// When it was due.
    pub due: Stamp,
    /// How much later it was sent.
    pub send_late: Duration,
    /// When the kernel had the answer, and how much later the prober read it.
    pub answered: Option<(Stamp, Duration)>,
    /// Who answered; 0 without an answer.
    pub by: u32,
}

/// The longest time without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last answer before it.
    pub start: Stamp,
    /// The first answer after it, or the end of the window.
    pub end: Stamp,
    /// Who gave the last answer before; 0 when nobody had.
    pub from: u32,
    /// Who gave the first answer after; 0 when nobody did.
    pub to: u32,
}

impl Gap {
    /// Its length.
    pub fn length(&self) -> Duration {
        self.end.since(self.start)
    }

    /// Its length in milliseconds.
    pub fn ms(&self) -> f64 {
        self.length().as_secs_f64() * 1e3
    }
}

/// The prober's own lateness, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lateness {
    /// A probe sent later than it was due.
    pub send: Duration,
    /// An answer read later than the kernel had it.
    pub receive: Duration,
}

impl Lateness {
    /// The larger of the two.
    pub fn worst(&self) -> Duration {
        self.send.max(self.receive)
    }
}

/// Everything a prober saw.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    /// By sequence number.
    pub records: Vec<Record>,
    /// Time between probes.
    pub interval: Duration,
}

impl Probe {
    fn arrivals(&self) -> Vec<(Stamp, u32)> {
        let mut found: Vec<_> = self.records.iter().filter_map(|r| Some((r.answered?.0, r.by))).collect();
        found.sort_unstable();
        found
    }

    /// The longest time between two answers (or the window's end), of those that end after `from` and begin before `until`.
    pub fn longest_gap(&self, from: Stamp, until: Stamp) -> Gap {
        let arrivals = self.arrivals();
        let first = arrivals.partition_point(|(at, _)| *at <= from).saturating_sub(1);
        let (mut last_at, mut last_by) =
            arrivals.get(first).copied().filter(|(at, _)| *at <= from).unwrap_or((from, 0));
        let mut longest = Gap { start: last_at, end: last_at, from: last_by, to: last_by };
        for (at, by) in arrivals.iter().copied().filter(|(at, _)| *at > from) {
            if last_at >= until {
                return longest;
            }
            if at.since(last_at) > longest.length() {
                longest = Gap { start: last_at, end: at, from: last_by, to: by };
            }
            (last_at, last_by) = (at, by);
        }
        if until.since(last_at) > longest.length() {
            longest = Gap { start: last_at, end: until, from: last_by, to: 0 };
        }
        longest
    }

    /// Probes due in the window, and how many of them were never answered.
    pub fn lost(&self, from: Stamp, until: Stamp) -> (usize, usize) {
        let window = || self.records.iter().filter(|r| r.due >= from && r.due < until);
        (window().count(), window().filter(|r| r.answered.is_none()).count())
    }

    /// Who answered probes that were due in the window.
    pub fn answerers(&self, from: Stamp, until: Stamp) -> BTreeSet<u32> {
        let window = self.records.iter().filter(|r| r.due >= from && r.due < until && r.answered.is_some());
        window.map(|r| r.by).collect()
    }

    /// The prober's own lateness in the window: when it exceeds the allowance of the bench, the run is void.
    pub fn lateness(&self, from: Stamp, until: Stamp) -> Lateness {
        let mut worst = Lateness::default();
        for record in self.records.iter().filter(|r| r.due >= from && r.due < until) {
            worst.send = worst.send.max(record.send_late);
            worst.receive = worst.receive.max(record.answered.map(|(_, late)| late).unwrap_or_default());
        }
        worst
    }
}

#[cfg(test)]
mod tests {
    use super::{Gap, Probe, Record};
    use crate::Stamp;
    use std::time::Duration;

    const MS: u64 = 1_000_000;

    /// Probes 1 ms apart from 0; those in `lost` without an answer; node 1 answers before `change`, node 2 after.
    fn probe(count: u64, lost: std::ops::Range<u64>, change: u64) -> Probe {
        let record = |n: u64| Record {
            due: Stamp(n * MS),
            send_late: Duration::from_micros(n),
            answered: (!lost.contains(&n)).then_some((Stamp(n * MS + 1000), Duration::from_micros(3))),
            by: if lost.contains(&n) { 0 } else { 1 + u32::from(n >= change) },
        };
        Probe { records: (0..count).map(record).collect(), interval: Duration::from_millis(1) }
    }

    #[test]
    fn the_gap_lies_between_the_last_and_the_first_answer() {
        let probe = probe(200, 50..80, 80);
        let gap = probe.longest_gap(Stamp(10 * MS), Stamp(150 * MS));
        assert_eq!(gap, Gap { start: Stamp(49 * MS + 1000), end: Stamp(80 * MS + 1000), from: 1, to: 2 });
        assert_eq!(probe.lost(Stamp(10 * MS), Stamp(150 * MS)), (140, 30));
        assert_eq!(probe.answerers(Stamp(10 * MS), Stamp(150 * MS)).into_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_gap_that_never_ends_is_open() {
        let gap = probe(100, 50..100, 100).longest_gap(Stamp(0), Stamp(100 * MS));
        assert_eq!((gap.to, gap.length()), (0, Duration::from_nanos(51 * MS - 1000)));
    }

    #[test]
    fn a_gap_that_began_before_the_window_counts_whole() {
        let gap = probe(200, 50..80, 80).longest_gap(Stamp(60 * MS), Stamp(150 * MS));
        assert_eq!(gap.length(), Duration::from_millis(31));
    }

    #[test]
    fn lateness_is_of_the_window_only() {
        let worst = probe(200, 0..0, 0).lateness(Stamp(0), Stamp(100 * MS));
        assert_eq!((worst.send, worst.receive), (Duration::from_micros(99), Duration::from_micros(3)));
    }
}
