//! How the network learns where a VIP is.

pub mod l2;
pub mod route;
