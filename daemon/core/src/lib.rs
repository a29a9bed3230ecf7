//! Every decision of Bascule, and nothing that touches the world.
//!
//! The crate has no sockets, clocks, files, threads or async runtime: `now` is an argument, randomness is a seed and effects are
//! values. A driver (the daemon, the simulator, a test) feeds [`node::Node`] with inputs, carries out its actions in order and calls
//! back at its next deadline.

pub mod announce;
pub mod balance;
pub mod bfd;
pub mod election;
pub mod fence;
pub mod handover;
pub mod health;
pub mod intent;
pub mod ipam;
pub mod neighbor;
pub mod node;
pub mod service;
pub mod shard;
pub mod site;
pub mod time;
pub mod types;
pub mod wire;
