//! One direction of a link: how long a packet takes, and which are lost.

use crate::rng::Rng;

/// A second in nanoseconds.
pub const SEC: u64 = 1_000_000_000;
/// A millisecond in nanoseconds.
pub const MS: u64 = 1_000_000;

/// How packets are lost.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Loss {
    /// None.
    None,
    /// All.
    All,
    /// Each packet by itself with this probability.
    Random(f64),
    /// All packets within bursts, which take up this share of the time. Gaps are exponential.
    Bursts {
        /// Of the time, 0 to 1.
        share: f64,
        /// Length in nanoseconds.
        length: u64,
        /// `length` is the mean of an exponential distribution, else every burst has it.
        exponential: bool,
    },
}

impl Loss {
    /// Bursts of 200 ms.
    pub const fn bursts(share: f64) -> Self {
        Self::Bursts { share, length: 200 * MS, exponential: false }
    }
}

/// A number in (0, 1].
pub(crate) fn unit(rng: &mut Rng) -> f64 {
    ((rng.next() >> 11) as f64 + 1.0) / (1u64 << 53) as f64
}

/// Exponential, in nanoseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive time of at most some days")]
pub(crate) fn exponential(rng: &mut Rng, mean: f64) -> u64 {
    (-unit(rng).ln() * mean) as u64
}

/// A number for each pair of `n` places, the same both ways.
pub(crate) fn symmetric(n: usize, mut draw: impl FnMut() -> u64) -> Vec<Vec<u64>> {
    let mut out = vec![vec![0; n]; n];
    for (a, b) in (0..n).flat_map(|a| (0..a).map(move |b| (a, b))) {
        let one = draw();
        (out[a][b], out[b][a]) = (one, one);
    }
    out
}

/// The bursts of one direction, in order.
#[derive(Clone, Debug)]
pub struct Direction {
    loss: Loss,
    rng: Rng,
    burst: (u64, u64),
}

impl Direction {
    /// A direction that loses nothing yet.
    pub const fn new(seed: u64) -> Self {
        Self { loss: Loss::None, rng: Rng::new(seed), burst: (u64::MAX, u64::MAX) }
    }

    /// Loses like this from `now` on.
    pub fn set(&mut self, loss: Loss, now: u64) {
        self.loss = loss;
        self.burst = (now, now);
        self.next_burst(now);
    }

    fn next_burst(&mut self, now: u64) {
        let Loss::Bursts { share, length, exponential: random } = self.loss else { return };
        while self.burst.1 <= now {
            let gap = exponential(&mut self.rng, length as f64 * (1.0 - share) / share);
            let length = if random { exponential(&mut self.rng, length as f64) } else { length };
            let start = self.burst.1 + gap;
            self.burst = (start, start + length.max(1));
        }
    }

    /// The next burst that ends after `now`: start and end.
    pub fn burst(&mut self, now: u64) -> (u64, u64) {
        self.next_burst(now);
        self.burst
    }

    /// Is a packet of `now` lost? Times never go back.
    pub fn loses(&mut self, now: u64) -> bool {
        match self.loss {
            Loss::None => false,
            Loss::All => true,
            Loss::Random(p) => unit(&mut self.rng) <= p,
            Loss::Bursts { .. } => {
                let (start, _) = self.burst(now);
                start <= now
            }
        }
    }
}

/// A buffer before a link that fills and stays full: what it adds to the delay of a packet. Those who fill it back off by three tenths when
/// it overflows (CUBIC, RFC 9438 section 4.6) and fill it again, so that a full one is never less than seven tenths full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// When it begins to fill.
    pub since: u64,
    /// How long until it is full.
    pub fill: u64,
    /// What a full one adds, as a part of the one-way delay of its link in per cent.
    pub full: u64,
    /// From one overflow to the next.
    pub period: u64,
}

impl Buffer {
    /// Full after 1 to 4 s, and then the round trip is more than fourfold whatever the level.
    pub(crate) fn draw(rng: &mut Rng, since: u64) -> Self {
        let (fill, period) = (rng.between(1000, 4000) * MS, rng.between(1000, 8000) * MS);
        // In one of the two ways: three more round trips are six one-way delays, which seven tenths of the least still are.
        Self { since, fill, full: rng.between(880, 1200), period }
    }

    /// What it adds at `now` to a one-way delay.
    pub fn adds(&self, delay: u64, now: u64) -> u64 {
        let (full, age) = (delay * self.full / 100, now.saturating_sub(self.since));
        if age < self.fill {
            return full * age / self.fill;
        }
        // A fifth of the period drains, the rest fills.
        let (at, fifth) = ((age - self.fill) % self.period, self.period / 5);
        let missing = if at < fifth { at * 4 } else { self.period - at };
        full - full * 3 / 10 * missing / (self.period * 4 / 5).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_fills_and_stays_full_and_nobody_overtakes_in_it() {
        for seed in 0..50 {
            let (mut rng, delay) = (Rng::new(seed), 20 * MS);
            let buffer = Buffer::draw(&mut rng, 7 * SEC);
            let (from, full) = (buffer.since, delay * buffer.full / 100);
            assert_eq!([0, from].map(|at| buffer.adds(delay, at)), [0, 0]);
            let mut before = 0;
            for ms in 0..30_000 {
                let now = from + ms * MS;
                let adds = buffer.adds(delay, now);
                assert!(adds + MS >= before && adds <= full, "{buffer:?}: {adds} after {before}, at {ms} ms");
                assert!(ms * MS < buffer.fill || adds * 100 >= full * 69, "{buffer:?}: {adds} at {ms} ms");
                before = adds;
            }
        }
    }

    #[test]
    fn each_model_loses_what_it_says() {
        let exponential = Loss::Bursts { share: 0.1, length: 200 * MS, exponential: true };
        for (loss, share) in
            [(Loss::Random(0.05), 0.05), (Loss::bursts(0.1), 0.1), (exponential, 0.1), (Loss::None, 0.0)]
        {
            let mut way = Direction::new(5);
            way.set(loss, 0);
            let lost = (0..600_000u64).filter(|i| way.loses(i * 17 * MS)).count() as f64 / 600_000.0;
            assert!((lost - share).abs() < 0.01, "{loss:?}: {lost}");
        }
    }
}
