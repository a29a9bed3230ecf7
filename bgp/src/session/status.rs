//! What a session shows of itself: a snapshot that serializes, for the CLI, the admin socket and metrics.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use serde::Serialize;

use crate::session::State;
use crate::session::counters::Counters;
use crate::session::last_error::LastError;
use crate::session::machine::{Run, Session, Timer};
use crate::session::negotiate::{Negotiated, Rung};
use crate::time::Instant;
use crate::wire::Family;

/// One neighbor. The fields about routes are the speaker's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SessionStatus {
    /// Name in the configuration.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// State.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// How long.
    #[serde(serialize_with = "seconds")]
    pub uptime: Duration,
    /// What holds it back, or comes next, when it is not Established.
    pub waiting: Option<String>,
    /// Agreed in the running session.
    pub negotiated: Option<NegotiatedStatus>,
    /// How much our OPEN offers.
    pub offer: Rung,
    /// Why it ended last.
    pub last_error: Option<LastError>,
    /// Everything counted.
    pub counters: Counters,
    /// Prefixes received and discarded, by family; at most the limit and one, or 1001 without a limit.
    pub prefixes_in: Vec<(Family, u32)>,
}

/// What was agreed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct NegotiatedStatus {
    /// AS of the neighbor.
    pub peer_as: u32,
    /// BGP Identifier of the neighbor.
    pub peer_id: Ipv4Addr,
    /// In our AS.
    pub internal: bool,
    /// Families of both.
    pub families: Vec<Family>,
    /// Seconds; 0: none.
    pub hold_time: u16,
    /// Between KEEPALIVEs, seconds before jitter; 0: none.
    pub keepalive: u64,
    /// AS numbers of four octets.
    pub four_octet_as: bool,
    /// Refreshes are answered.
    pub route_refresh: bool,
    /// And marked.
    pub enhanced_refresh: bool,
    /// We may send messages of up to 65,535 octets.
    pub extended_message: bool,
    /// Restart Time of the neighbor where graceful restart was agreed, seconds.
    pub graceful_restart: Option<u16>,
    /// NOTIFICATIONs keep routes (RFC 8538).
    pub graceful_notification: bool,
    /// Own address of the connection.
    pub local_address: Option<IpAddr>,
    /// Everything the neighbor offered, in words.
    pub peer_capabilities: Vec<String>,
}

impl Session {
    /// The snapshot.
    pub fn status(&self, now: Instant) -> SessionStatus {
        SessionStatus {
            name: self.config.name.clone(),
            address: self.config.address,
            state: self.shown,
            since: self.since,
            uptime: now.since(self.since),
            waiting: self.waiting(now),
            negotiated: self.negotiated().map(|agreed| self.describe(agreed)),
            offer: self.rung,
            last_error: self.last_error.clone(),
            counters: self.counters.clone(),
            prefixes_in: Family::ALL.into_iter().map(|family| (family, self.intake.prefixes(family))).collect(),
        }
    }

    fn describe(&self, agreed: &Negotiated) -> NegotiatedStatus {
        NegotiatedStatus {
            peer_as: agreed.peer.asn,
            peer_id: agreed.peer.id,
            internal: agreed.ibgp,
            families: agreed.families.iter().collect(),
            hold_time: agreed.hold_time,
            keepalive: agreed.keepalive().unwrap_or_default().as_secs(),
            four_octet_as: agreed.four_octet_as,
            route_refresh: agreed.route_refresh,
            enhanced_refresh: agreed.enhanced_refresh,
            extended_message: agreed.extended_send,
            graceful_restart: agreed.graceful.map(|graceful| graceful.restart_time),
            graceful_notification: agreed.graceful.is_some_and(|graceful| graceful.notification),
            local_address: self.local_end().map(|local| local.address.ip()),
            peer_capabilities: agreed.peer_capabilities.clone(),
        }
    }

    fn waiting(&self, now: Instant) -> Option<String> {
        let wait = |timer| self.timers.get(timer).map(|at: Instant| at.since(now).as_secs_f32());
        match &self.run {
            Run::Stopped(why) => Some(why.clone()),
            Run::Resting => match wait(Timer::IdleHold) {
                Some(seconds) => Some(format!("at rest for {seconds:.0} s more")),
                // Only its own end or an operator's reset ends this wait.
                None => Some("BFD is down; dials when it is up again, or is reset".to_owned()),
            },
            Run::Trying => match (self.shown, wait(Timer::ConnectRetry)) {
                (State::Active, Some(seconds)) => Some(format!("dials again in {seconds:.0} s")),
                (State::Active, None) => Some("waits for the neighbor to dial".to_owned()),
                _ => None,
            },
        }
    }
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}
