//! Two of the very speakers that the daemon links, on a virtual TCP that stalls, breaks, dies half-open and shuts its window, from a
//! seed.
//!
//! One event queue in virtual nanoseconds ([`world`]). A node is a speaker, the driver around it and a clock of its own ([`node`]); what
//! it writes and reads is decoded by a tap beside the wire ([`tap`]), and the invariants ([`check`]) are held against the taps and a model
//! of what each node wants announced, never against what the speaker says of itself. The seed decides the two configurations and
//! every fault beforehand ([`scenario`]). That the checker sees is proven by planted bugs ([`mutant`]).

mod calm;
pub mod check;
mod faults;
pub mod mutant;
mod node;
pub mod scenario;
mod tap;
mod tcp;
pub mod world;

use check::Violation;
use mutant::Mutant;
use scenario::Scenario;
use world::{Outcome, World};

/// Runs one seed.
pub fn run_seed(seed: u64, mutant: Option<Mutant>, trace: bool) -> Outcome {
    World::new(Scenario::new(seed), mutant, trace).run()
}

/// The seed that first shows a planted bug, with its violation, and how many seeds that took.
pub fn find(mutant: Mutant, first: u64, seeds: u64) -> (u64, Option<(u64, Violation)>) {
    for seed in first..first + seeds {
        if let Some(violation) = run_seed(seed, Some(mutant), false).violation {
            return (seed - first + 1, Some((seed, violation)));
        }
    }
    (seeds, None)
}
