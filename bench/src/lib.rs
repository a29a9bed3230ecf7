//! What the benches share: nodes with a VRRP daemon each (Bascule or keepalived), groups of them that hold one VIP, the
//! measurement of one failover, and three Bascule nodes under every fault.

pub mod arena;
pub mod group;
pub mod node;
pub mod run;
pub mod trio;
