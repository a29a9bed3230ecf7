//! Sequences in virtual time: one speaker and a scripted neighbor, and two speakers with one another.

mod changes;
mod leave;
mod scripted;
mod sequences;

use core::net::{IpAddr, Ipv4Addr};

use crate::config::{NeighborConfig, SpeakerConfig};
use crate::io::Route;
use crate::time::Instant;

const START: Instant = Instant::from_nanos(1_000_000_000_000);

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

fn neighbor(last: u8) -> NeighborConfig {
    NeighborConfig::external(format!("n{last}"), address(last))
}

/// AS 65000 + `last`, identifier 192.0.2.`last`.
fn speaker(last: u8, neighbors: Vec<NeighborConfig>) -> SpeakerConfig {
    SpeakerConfig { asn: 65_000 + u32::from(last), router_id: Ipv4Addr::new(192, 0, 2, last), neighbors }
}

fn route(text: &str, since: Instant) -> Route {
    Route { prefix: text.parse().expect("a prefix"), vip: "v".to_owned(), draining: false, since }
}
