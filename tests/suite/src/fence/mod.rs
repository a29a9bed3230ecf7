//! Ground and frames for the tests of the fence.

pub mod frames;
pub mod ground;
pub mod run;
pub mod wire;

pub use ground::{Ground, Netns, boot_ns, give_address};
pub use run::{Outcome, cost_ns, test_run};
pub use wire::Wire;
