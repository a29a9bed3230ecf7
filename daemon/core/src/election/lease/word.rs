//! What the driver of a lease elector is told, and what it says: the same for every store.

use core::time::Duration;

use super::{CloseReason, Condition, Standing};
use crate::time::Instant;
use crate::types::Term;

/// What a driver is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// This node may own, or may not.
    Standing(Standing),
    /// What [`Word::Close`] of this term named is closed: nothing of it answers any more.
    Closed(Term),
    /// Give up and end.
    Stop,
}

/// What a driver says, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Word {
    /// Own: write the fence with this term and deadline, then claim.
    Claim {
        /// Counts the claims of this elector.
        term: Term,
        /// Counts the claims of all nodes.
        epoch: u64,
        /// When the fence closes without a further proof.
        deadline: Instant,
    },
    /// The fence of this term closes later.
    Extend {
        /// The claim.
        term: Term,
        /// When the fence closes without a further proof.
        deadline: Instant,
    },
    /// Give up, then answer with [`Command::Closed`].
    Close {
        /// The claim.
        term: Term,
        /// Why.
        reason: CloseReason,
    },
    /// Who holds the lease as far as is known; `None`: nobody.
    Holder(Option<String>),
    /// How the store answers, with its own words when it does not do what it should.
    Condition {
        /// In one word.
        condition: Condition,
        /// For people.
        detail: Option<String>,
    },
    /// The elector was held up for so long.
    Stalled(Duration),
}
