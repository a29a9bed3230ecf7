//! A reference model of the forwarding plane, written from the rules and not from the programs. It shares with them the
//! types of the map ABI and the keyed hashes, nothing else.
//!
//! State goes in as collections, the clock as an argument, the sockets of endpoints as an oracle. One call handles one
//! frame; what the rules leave open is named in [`Loose`], so that a comparison asks no more than they say.

mod chain;
mod decap;
mod deliver;
mod egress;
mod encap;
mod error;
mod fragment;
mod home;
mod ingress;
mod ip;
mod site;
mod slow;
mod state;

pub use encap::shim_wire;
pub use ip::{ethernet, read_ip};
pub use state::{Clock, Followed, Loose, Output, Sockets, State, Verdict};
