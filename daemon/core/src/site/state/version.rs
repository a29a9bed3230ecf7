//! Versions of what sites tell one another (ADR 0035).
//!
//! A session speaks the newest version that both ends know: its first message in each direction, Hello, says which those are, and is itself
//! read by all of them. What a version adds is sent only where it is spoken. A reader leaves out what a newer peer sends all the same.

use core::fmt;

use serde::Serialize;

/// Versions that somebody speaks, all from the oldest to the newest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Speaks {
    /// The oldest.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
}

impl Speaks {
    /// What this source speaks. Version 1: all of [`super::message`] but what stands here. 2: [`super::message::Message::About`].
    /// 3: [`super::message::Message::Reach`].
    pub const OURS: Self = Self { oldest: 1, newest: 3 };

    /// The newest version that both speak.
    pub fn agree(self, other: Self) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for Speaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_that_both_speak_or_none() {
        let speaks = |oldest, newest| Speaks { oldest, newest };
        for (a, b, agreed) in [
            ((1, 2), (1, 2), Some(2)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 2), (2, 9), Some(2)),
            ((1, 2), (3, 9), None),
            ((4, 7), (5, 5), Some(5)),
        ] {
            let (a, b) = (speaks(a.0, a.1), speaks(b.0, b.1));
            assert_eq!((a.agree(b), b.agree(a)), (agreed, agreed), "{a}, {b}");
        }
    }
}
