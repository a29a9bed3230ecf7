//! What the benches share: nodes with a VRRP daemon each (Bascule or keepalived), groups of them that hold one VIP, the
//! measurement of one failover, three Bascule nodes under every fault, an anycast address on a routed
//! network, and services behind a VIP.

pub mod arena;
pub mod bgp_table;
pub mod dataplane;
pub mod group;
pub mod node;
pub mod routed;
pub mod run;
pub mod services;
pub mod tables;
pub mod trio;
