//! What the benches share: nodes with a VRRP daemon each (Bascule or keepalived), groups of them that hold one VIP, the
//! measurement of one failover, three Bascule nodes under every fault, an anycast address on a routed
//! network, services behind a VIP, and two sites that share services.

pub mod arena;
pub mod bgp_table;
pub mod dataplane;
pub mod group;
pub mod node;
pub mod routed;
pub mod run;
pub mod services;
pub mod sites;
pub mod tables;
pub mod trio;
