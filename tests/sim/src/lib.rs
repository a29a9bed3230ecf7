//! The simulator: the very node machine that the daemon links, by the dozen, on a virtual LAN, from a seed.
//!
//! One event queue in virtual nanoseconds drives everything ([`world`]). A node is a model kernel that outlives its daemon
//! ([`kernel`]), a driver that keeps the machine's calling contract and can be held up or killed between any two steps ([`host`]), and
//! a clock of its own ([`clock`]). The LAN loses, delays, reorders and splits ([`lan`]). The seed decides the cluster, its class of
//! fault and every fault beforehand ([`scenario`], [`faults`]). The invariants are checked after every event ([`check`]). That the
//! checker sees is proven by planted bugs ([`mutant`]).

pub mod bgp;
pub mod campaign;
pub mod check;
mod client;
pub mod clock;
mod facts;
pub mod faults;
pub mod host;
pub mod kernel;
pub mod lan;
pub mod mutant;
mod planted;
mod reload;
pub mod rng;
pub mod scenario;
pub mod sites;
mod trace;
pub mod violation;
mod wire;
pub mod world;
