//! What the benches and the demo share.

pub mod trio;
