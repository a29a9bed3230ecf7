//! Who reads a cluster and who gives addresses in it, against an API server that misbehaves.

mod allocator;
mod fake;
mod faults;
mod nodes;
mod reader;
