//! Several sites of the very machines of `bascule_core::site` on a virtual WAN, from a seed.
//!
//! [`path`] is two ends of one path over a link that loses; [`brownout`] makes distributions of it. [`overload`] is the policy of many
//! sites in a fluid model. [`wan`] is whole sites: the nodes of each run the machine
//! that joins facts as the daemon does, with paths and records behind a driver, and each relay its own sessions ([`relay`]); with the faults of
//! [`scene`] and the invariants of [`check`] and [`words`]; that the checker sees is proven by planted bugs ([`mutant`]).

mod authority;
pub mod brownout;
pub mod check;
pub mod churn;
mod host;
pub mod link;
pub mod mutant;
mod node;
pub mod overload;
pub mod path;
mod relay;
pub mod scene;
pub mod wan;
mod words;

use mutant::Mutant;
use scene::{Class, Scene};
use wan::{Outcome, World};

use crate::violation::Violation;

/// Runs one seed.
pub fn run_seed(seed: u64, class: Option<Class>, mutant: Option<Mutant>, trace: bool) -> (Class, Outcome) {
    let scene = Scene::new(seed, class);
    (scene.class, World::new(scene, mutant, trace).run())
}

/// Runs one seed for so many nanoseconds after its first fault.
pub fn run_long(seed: u64, class: Option<Class>, mutant: Option<Mutant>, span: u64) -> (Class, Outcome) {
    let scene = Scene::new(seed, class).lasting(span);
    (scene.class, World::new(scene, mutant, false).run())
}

/// Runs one seed of a row with the policy off: nothing that happens changes a table. `None`: a row whose bound is not the policy's matter.
pub fn run_off(seed: u64, class: Option<Class>) -> (Class, Option<Outcome>) {
    let scene = Scene { policy_off: true, ..Scene::new(seed, class) };
    let class = scene.class;
    let steered = Class::STEERED.contains(&class);
    (class, steered.then(|| World::new(scene, None, false).run()))
}

/// The seed that first shows a planted bug, with its class and violation, and how many seeds that took.
pub fn find(mutant: Mutant, class: Option<Class>, first: u64, seeds: u64) -> (u64, Option<(u64, Class, Violation)>) {
    for seed in first..first + seeds {
        let (class, outcome) = run_seed(seed, class, Some(mutant), false);
        if let Some(violation) = outcome.violation {
            return (seed - first + 1, Some((seed, class, violation)));
        }
    }
    (seeds, None)
}
