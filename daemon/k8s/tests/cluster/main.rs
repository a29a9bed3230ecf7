//! Who reads a cluster and who gives addresses in it, against an API server that misbehaves.

mod fake;
mod reader;
