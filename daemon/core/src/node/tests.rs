//! The node as a whole, in virtual time: what it owes, and in which order.

use core::net::IpAddr;
use core::time::Duration;

use super::*;
use crate::election::Reason;
use crate::types::{Centis, Family, Mac, Role, Term};

mod anycast;
mod claim;
mod dual;
mod fence;
mod handover;
mod harness;
mod health;
mod lifecycle;
mod probe;
mod receive;
mod reload;
mod routes;
mod snapshot;
