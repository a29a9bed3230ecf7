//! Choices of a run, all from one number.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and enough to spread phases and lengths.
#[derive(Debug, Clone)]
pub(crate) struct Seed(u64);

impl Seed {
    /// The choices of this number.
    pub(crate) fn new(number: u64) -> Self {
        Self(number)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0..`limit`.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit.max(1))).expect("the remainder is below a u32")
    }

    /// A time between the two, in milliseconds.
    pub(crate) fn between(&mut self, low_ms: u32, high_ms: u32) -> Duration {
        Duration::from_millis(u64::from(low_ms + self.below(high_ms - low_ms + 1)))
    }

    /// Heads or tails.
    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_makes_the_same_choices_within_bounds() {
        let choices = |number| {
            let mut seed = Seed::new(number);
            (0..50).map(|_| seed.between(5, 200)).collect::<Vec<_>>()
        };
        assert_eq!(choices(7), choices(7));
        assert_ne!(choices(7), choices(8));
        let all: Vec<_> = (0..100).flat_map(choices).collect();
        assert!(all.iter().all(|time| (5..=200).contains(&time.as_millis())));
        assert!(all.iter().any(|time| time.as_millis() < 15) && all.iter().any(|time| time.as_millis() > 190));
    }
}
