//! The forwarding plane beside a reference model: packets and worlds as text, the programs by `test_run`.

pub mod bytes;
pub mod group;
pub mod judge;
pub mod model;
pub mod random;
pub mod run;
pub mod subject;
pub mod text;
pub mod walk;
