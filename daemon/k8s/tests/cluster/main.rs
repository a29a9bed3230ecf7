//! Who reads a cluster and who gives addresses in it, against an API server that misbehaves.

mod allocator;
#[path = "../common/mod.rs"]
mod common;
mod fake;
mod faults;
mod nodes;
mod reader;
mod rules;
