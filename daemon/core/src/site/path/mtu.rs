//! How large a packet the path carries. RFC 8899's idea with its own search: several sizes at once, so that a black hole is measured in
//! three rounds whatever the sizes (F13: 5 s after the probe that noticed).

use core::time::Duration;

use crate::time::Instant;

/// How often the confirmed size is tried again (sites.md 4.6).
const CHECK: Duration = Duration::from_secs(30);
/// How often a larger one is tried after a black hole (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
const RAISE: Duration = Duration::from_secs(600);
/// What IPv6 guarantees (RFC 8200 section 5): below it nothing is searched.
const LEAST: u16 = 1280;
/// Losses in a row that make a black hole (RFC 8899 section 5.1.2, MAX_PROBES).
const TRIES: u8 = 3;
/// Sizes tried at once.
const RUNGS: u16 = 8;
/// How often each is sent in a round.
const COPIES: u8 = 2;
/// An answer is waited for so long beyond the round trip.
const PATIENCE: Duration = Duration::from_millis(400);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The next check comes with the timer.
    Idle,
    /// `tries` probes of the confirmed size went unanswered.
    Check { tries: u8 },
    /// Between what arrived and what did not; `best` is what has arrived in this round.
    Search { low: u16, high: u16, best: u16 },
}

/// The measure of one path, in bytes of the whole IP packet.
#[derive(Clone, Debug)]
pub(super) struct Mtu {
    /// What the local link allows.
    link: u16,
    confirmed: u16,
    phase: Phase,
    raise_at: Option<Instant>,
    pub(super) at: Instant,
}

/// What the size of the path became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) from: u16,
    pub(super) to: u16,
}

impl Mtu {
    pub(super) fn new(link: u16, now: Instant) -> Self {
        Self { link: link.max(LEAST), confirmed: link.max(LEAST), phase: Phase::Idle, raise_at: None, at: now }
    }

    pub(super) const fn confirmed(&self) -> u16 {
        self.confirmed
    }

    /// The timer is due and small probes arrive: sizes to send now, and perhaps a conclusion.
    pub(super) fn expire(&mut self, now: Instant, rtt: Duration, send: &mut impl FnMut(u16)) -> Option<Change> {
        if now < self.at {
            return None;
        }
        let mut change = None;
        match self.phase {
            Phase::Idle if self.raise_at.is_some_and(|at| at <= now) => {
                self.raise_at = Some(now + RAISE);
                self.phase = search(self.confirmed, self.link + 1);
            }
            Phase::Idle => self.phase = Phase::Check { tries: 1 },
            Phase::Check { tries } if tries < TRIES => self.phase = Phase::Check { tries: tries + 1 },
            Phase::Check { .. } => self.phase = search(LEAST, self.confirmed),
            Phase::Search { low, high, best } => {
                let above = rungs(low, high).find(|rung| *rung > best).unwrap_or(high);
                self.phase = search(best, above);
                if above - best <= 1 {
                    change = self.conclude(best, now);
                }
            }
        }
        match self.phase {
            Phase::Idle => {}
            Phase::Check { .. } => {
                send(self.confirmed);
                self.at = now + rtt + PATIENCE;
            }
            Phase::Search { low, high, .. } => {
                for _ in 0..COPIES {
                    rungs(low, high).for_each(&mut *send);
                }
                self.at = now + rtt + PATIENCE;
            }
        }
        change
    }

    /// A probe of `size` arrived at the other end.
    pub(super) fn arrived(&mut self, size: u16, now: Instant) {
        match &mut self.phase {
            Phase::Check { .. } if size >= self.confirmed => {
                self.phase = Phase::Idle;
                self.at = self.raise_at.map_or(now + CHECK, |raise| raise.min(now + CHECK));
            }
            Phase::Search { high, best, .. } if size < *high => *best = size.max(*best),
            Phase::Idle | Phase::Check { .. } | Phase::Search { .. } => {}
        }
    }

    /// The path changed: look again at once.
    pub(super) fn path_changed(&mut self, now: Instant) {
        self.phase = Phase::Idle;
        self.at = now;
    }

    fn conclude(&mut self, size: u16, now: Instant) -> Option<Change> {
        let from = self.confirmed;
        self.confirmed = size;
        self.phase = Phase::Idle;
        self.at = now + CHECK;
        self.raise_at = (size < self.link).then_some(now + RAISE);
        (from != size).then_some(Change { from, to: size })
    }
}

const fn search(low: u16, high: u16) -> Phase {
    Phase::Search { low, high, best: low }
}

/// Sizes strictly between what arrived and what did not, evenly.
fn rungs(low: u16, high: u16) -> impl Iterator<Item = u16> {
    let span = high.saturating_sub(low).saturating_sub(1);
    let count = span.min(RUNGS);
    (1..=count).map(move |i| {
        let step = u32::from(span + 1) * u32::from(i) / u32::from(count + 1);
        low + u16::try_from(step).unwrap_or(0).max(1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the machine against a path that carries `real` bytes; gives the changes and when they came, in seconds.
    fn run(mtu: &mut Mtu, from: u64, seconds: u64, real: u16) -> Vec<(u64, Change)> {
        let (mut out, mut t) = (Vec::new(), from);
        while t < from + seconds * 1000 {
            let now = Instant::from_nanos(t * 1_000_000);
            let mut sizes = Vec::new();
            let change = mtu.expire(now, Duration::from_millis(20), &mut |s| sizes.push(s));
            out.extend(change.map(|c| (t - from, c)));
            assert!(sizes.len() <= 16);
            let answered = Instant::from_nanos((t + 20) * 1_000_000);
            sizes.into_iter().filter(|s| *s <= real).for_each(|s| mtu.arrived(s, answered));
            t += 20;
        }
        out
    }

    #[test]
    fn any_black_hole_is_measured_exactly_within_five_seconds_of_the_probe() {
        for real in (1280..1500).step_by(7).chain([1281, 1399, 1400, 1499]) {
            let mut mtu = Mtu::new(1500, Instant::ZERO);
            assert_eq!(run(&mut mtu, 0, 61, 1500), []);
            let changes = run(&mut mtu, 61_000, 60, real);
            let [(at, change)] = changes[..] else { panic!("{real}: {changes:?}") };
            assert_eq!(change, Change { from: 1500, to: real });
            assert!(at <= 34_000, "{real}: {at} ms, at most 30 s until the probe and 4 s for the search");
        }
    }

    #[test]
    fn a_mended_path_is_found_within_the_raise_time() {
        let mut mtu = Mtu::new(9000, Instant::ZERO);
        let changes = run(&mut mtu, 0, 60, 1400);
        assert_eq!(changes.iter().map(|(_, c)| c.to).collect::<Vec<_>>(), [1400]);
        assert_eq!(run(&mut mtu, 60_000, 660, 9000).iter().map(|(_, c)| c.to).collect::<Vec<_>>(), [9000]);
    }
}
