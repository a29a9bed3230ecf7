//! Random worlds and packets from a seed, as text: what disagrees can be read and run again.

mod differ;
mod forged;
mod neutral;
mod packet;
mod scene;

pub use differ::{Report, agree};
pub use forged::forged;
pub use neutral::{captured, neutral, neutral_kinds};

/// SplitMix64 (Steele, Lea, Flood 2014): a seed is a whole run.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `below`.
    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }

    /// One of these.
    ///
    /// # Panics
    /// Never: an index fits.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.roll(of.len() as u64)).expect("an index fits")]
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.roll(n) == 0
    }
}
