//! What the world needs of a store, and the bugs that a driver can have.

use super::*;

/// What the world needs of a store. Times are true nanoseconds.
pub(super) trait Store {
    type M: LeaseElector;
    /// Which party a node is of: nodes of one party own together.
    fn party(&self, node: usize) -> usize {
        node
    }
    fn machine(&self, node: usize, boot: u32, term: Term, seed: u64) -> Self::M;
    /// What becomes of a request of node `from`.
    fn serve(&mut self, from: usize, request: &Req<Self>, now: u64, mutant: Option<Mutant>) -> Ans<Self>;
    /// Parties hand over.
    fn hands_over(&self) -> bool {
        false
    }
    fn failed(failure: Failure) -> Ans<Self>;
    fn is_watch(request: &Req<Self>) -> bool;
    fn ended() -> <Self::M as Steps>::Watched;
    /// What watchers are owed since the last call.
    fn changes(&mut self) -> Vec<<Self::M as Steps>::Watched>;
    /// Time passes. When it wants to be called again.
    fn tick(&mut self, now: u64) -> u64;
    /// Somebody edits the object without changing what it says.
    fn touch(&mut self);
    /// Somebody deletes it, where that is guarded against.
    fn delete(&mut self);
    /// What a driver with this bug makes of the answer to a request.
    fn distort(mutant: Mutant, request: &Req<Self>, answer: Ans<Self>) -> Ans<Self>;
    fn duration(&self) -> Duration;
}

pub(super) type Req<S> = <<S as Store>::M as Steps>::Request;
pub(super) type Ans<S> = <<S as Store>::M as Steps>::Answer;
pub(super) type Wat<S> = <<S as Store>::M as Steps>::Watched;

/// Bugs of a driver that the world must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mutant {
    /// The fence's deadline counts from the answer.
    FromAnswer,
    /// The fence is open for the whole duration.
    NoMargin,
    /// Writes without a version.
    Unversioned,
    /// Says that it has closed, and closes 200 ms later.
    ReleasesFirst,
    /// A clock that stands still while the process is frozen (CLOCK_MONOTONIC and suspend).
    SuspendedClock,
    /// Takes 409 for success.
    ConflictIsSuccess,
    /// Reads a duration one second shorter than written.
    ShortDuration,
    /// Frees an entry without looking for shares.
    LooksForNoShare,
    /// Takes its share away, whichever that is now.
    LeavesAnyShare,
    /// Takes an old answer on a stream for the one that is awaited.
    StaleStream,
}
