//! The node as a whole, in virtual time: what it owes, and in which order.

use core::net::IpAddr;
use core::time::Duration;

use super::io::Command;
use super::*;
use crate::election::Reason;
use crate::types::{Centis, Family, Mac, Role, Term};
use crate::wire::arp::Arp;
use crate::wire::ndp::Ndp;
use crate::wire::peer::Message;
use crate::wire::vrrp::Advert;

mod anycast;
mod claim;
mod dual;
mod fence;
mod handover;
mod harness;
mod health;
mod lease;
mod lifecycle;
mod probe;
mod receive;
mod reload;
mod routes;
mod shard;
mod snapshot;
