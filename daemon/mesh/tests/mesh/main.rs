//! Relays and probers on loopback, real sockets and real certificates. Nothing here asserts how fast something happens but where the name
//! of a test says so.

#[path = "../common/mod.rs"]
mod common;

mod active;
mod certificates;
mod feed;
mod hostile;
mod path;
mod succession;
mod sync;
mod takeover;
mod versions;
mod wan;
