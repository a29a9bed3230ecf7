//! A BGP-4 speaker that touches nothing: no sockets, clocks, files or threads. `now` is an argument, randomness is a seed, effects are
//! values. It knows no virtual IP and no Kubernetes: prefixes and attributes in, messages out.

pub mod config;
pub mod event;
pub mod graceful;
pub mod io;
pub mod rib;
pub mod session;
pub mod speaker;
pub mod time;
pub mod wire;
