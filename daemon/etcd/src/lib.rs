//! Bascule's door to etcd (API v3). What tonic, prost and hyper know stops here: the public items speak in `bascule-core`'s types and in
//! plain ones of their own.
//!
//! [`Elector`] drives one [`bascule_core::election::lease::etcd::EtcdLease`]: it sends what the machine asks for, each request once and
//! within its deadline, and hands out what the machine decides as [`bascule_core::election::lease::Word`]s. It decides nothing itself.
//!
//! The messages are written out, and the connections are ours. The client library that there is wants a compiler of .proto files wherever
//! Bascule is built, keeps the TTL of the first keep-alive to itself (the machine must see it), and balances over the members by itself.

mod access;
mod connection;
mod elector;
mod proto;
mod request;
mod tls;
mod watch;

pub use access::{Access, AccessError, Endpoint, TlsFiles};
pub use elector::{Elector, ElectorConfig};
