//! The planes between sites, as far as they touch the world: [`state`] (records between relays, over mTLS), [`feed`] (what the leading relay
//! knows, to the nodes of its site), [`path`] (probes between nodes, over UDP) and [`pki`] (the certificates of relays). What is decided is decided by the machines of [`bascule_core::site`]; here are their
//! sockets, clocks and files.
//!
//! Clock, listener, the way to dial and the directories are arguments, so that one process can run several sites, on loopback or in
//! namespaces. Nothing here knows metrics or logs: events and counters are plain types.

pub mod clock;
pub mod feed;
pub mod path;
pub mod pki;
pub mod state;
pub mod tls;

pub use bascule_core::site::SiteId;
