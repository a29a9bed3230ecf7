//! The data plane under measurement: what a packet costs, alone and beside nftables and haproxy, under a flood, and what live flows
//! notice of changes. `bin/dataplane` runs it.
//!
//! Nothing is judged by an absolute time: every bound is a ratio of two things measured in turn in one run.

pub mod cost;
pub mod flood;
pub mod frames;
pub mod sender;
pub mod stats;
pub mod survive;
pub mod versus;
