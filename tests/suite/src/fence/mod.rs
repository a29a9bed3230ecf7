//! Ground and frames for the tests of the fence.

pub mod frames;
pub mod ground;
pub mod run;

pub use ground::{Ground, boot_ns};
pub use run::{Outcome, test_run};
