//! What our OPEN offers, what of the neighbor's is acceptable (RFC 4271 section 6.2), and what both together mean.

use core::net::Ipv4Addr;
use core::time::Duration;

use serde::Serialize;

use crate::config::{NeighborConfig, RemoteAs};
use crate::session::collision::Identity;
use crate::wire::notification::open_error;
use crate::wire::{Capability, Family, FamilySet, Notification, Open};

/// How much an OPEN offers. Old neighbors refuse a session for a capability that they do not know, against RFC 5492; each refusal leads
/// one rung down, and the next session begins at the top again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// Everything we speak.
    #[default]
    Full,
    /// Multiprotocol and 4-octet AS numbers.
    Basic,
    /// Nothing.
    Bare,
}

impl Rung {
    /// The next one that could still carry a session: without capabilities there are only IPv4 and AS numbers of two octets.
    pub fn below(self, config: &NeighborConfig, asn: u32) -> Option<Self> {
        match self {
            Self::Full => Some(Self::Basic),
            Self::Basic if config.families.contains(Family::Ipv4) && asn <= u32::from(u16::MAX) => Some(Self::Bare),
            Self::Basic | Self::Bare => None,
        }
    }

    /// What is left out, for [`crate::event::Event::CapabilitiesReduced`].
    pub const fn without(self) -> &'static str {
        match self {
            Self::Full => "nothing",
            Self::Basic => "route refresh, enhanced route refresh, extended messages, graceful restart",
            Self::Bare => "every capability: only IPv4 unicast and AS numbers of two octets are left",
        }
    }
}

/// What an OPEN says about a restart (RFC 4724 section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Restarted {
    /// R bit: this run follows a planned restart and the neighbor may still hold routes of the former run.
    pub restarting: bool,
    /// F bits: families whose forwarding stood the whole time.
    pub forwarding: FamilySet,
}

/// Our OPEN.
pub fn offer(config: &NeighborConfig, local: Identity, rung: Rung, restarted: Restarted) -> Open {
    let mut capabilities = Vec::new();
    if rung < Rung::Bare {
        capabilities.extend(config.families.iter().map(Capability::multi_protocol));
        capabilities.push(Capability::FourOctetAs(local.asn));
    }
    if rung == Rung::Full {
        capabilities.extend([Capability::RouteRefresh, Capability::EnhancedRouteRefresh, Capability::ExtendedMessage]);
        if let Some(restart_time) = config.graceful_restart {
            // Only what is negotiated for this very neighbor: a family that it never sends End-of-RIB for makes it wait (bgp.md 2.5).
            let family = |f: Family| (f.afi(), f.safi(), restarted.forwarding.contains(f));
            capabilities.push(Capability::GracefulRestart {
                restarting: restarted.restarting,
                notification: true,
                restart_time,
                families: config.families.iter().map(family).collect(),
            });
        }
    }
    Open::new(local.asn, config.hold_time, local.id, capabilities)
}

/// Graceful restart of the neighbor, as its OPEN says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Graceful {
    /// It restarted: R bit of a capability with families (without them it only helps, and R means nothing).
    pub restarting: bool,
    /// N bit on both sides (RFC 8538): NOTIFICATIONs keep routes, and only a Hard Reset drops them.
    pub notification: bool,
    /// Seconds it promises to be back within.
    pub restart_time: u16,
    /// Families it may keep across its own restart.
    pub families: FamilySet,
}

/// What two OPENs agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// The neighbor.
    pub peer: Identity,
    /// In our AS.
    pub ibgp: bool,
    /// Hold Time, seconds; 0: neither keepalives nor a hold timer.
    pub hold_time: u16,
    /// Families of both.
    pub families: FamilySet,
    /// AS numbers of four octets (RFC 6793).
    pub four_octet_as: bool,
    /// The neighbor may ask for a refresh (RFC 2918).
    pub route_refresh: bool,
    /// Refreshes are marked (RFC 7313).
    pub enhanced_refresh: bool,
    /// The neighbor reads messages of up to 65,535 octets (RFC 8654).
    pub extended_send: bool,
    /// We offered to.
    pub extended_receive: bool,
    /// Graceful restart of both.
    pub graceful: Option<Graceful>,
    /// Everything it offered, in words.
    pub peer_capabilities: Vec<String>,
}

impl Negotiated {
    /// A third of the hold time (RFC 4271 section 4.4 and 10); `None` with hold time 0.
    pub fn keepalive(&self) -> Option<Duration> {
        (self.hold_time > 0).then(|| Duration::from_secs(self.hold_time.into()) / 3)
    }

    /// The hold time; `None` for 0.
    pub fn hold(&self) -> Option<Duration> {
        (self.hold_time > 0).then(|| Duration::from_secs(self.hold_time.into()))
    }
}

/// Judges the neighbor's OPEN in the order AS, identifier, hold time, families. `ours` is what we sent on this very connection.
///
/// # Errors
/// The NOTIFICATION that refuses it.
pub fn accept(
    config: &NeighborConfig,
    local: Identity,
    ours: &Open,
    theirs: &Open,
) -> Result<Negotiated, Box<Notification>> {
    let peer = Identity { id: theirs.id, asn: theirs.asn() };
    let expected = match config.remote_as {
        // AS 0 is nobody's (RFC 7607 section 2).
        RemoteAs::External => peer.asn != local.asn && peer.asn != 0,
        RemoteAs::Internal => peer.asn == local.asn,
        RemoteAs::Is(asn) => peer.asn == asn && asn != 0,
    };
    if !expected {
        return Err(Box::new(Notification::bad_peer_as(peer.asn)));
    }
    let ibgp = peer.asn == local.asn;
    // An external neighbor may share our identifier (RFC 6286 section 2.1); the AS then decides collisions.
    if peer.id == Ipv4Addr::UNSPECIFIED || (ibgp && peer.id == local.id) {
        return Err(Box::new(Notification::bad_bgp_identifier(peer.id)));
    }
    if matches!(theirs.hold_time, 1 | 2) {
        return Err(Box::new(Notification::unacceptable_hold_time(theirs.hold_time)));
    }
    let families = ours.families().intersection(theirs.families());
    if families.is_empty() {
        let wanted: Vec<_> = config.families.iter().map(Capability::multi_protocol).collect();
        let refusal = Notification::unsupported_capability(&wanted)
            .unwrap_or_else(|_| Notification::open(open_error::UNSUPPORTED_CAPABILITY));
        return Err(Box::new(refusal));
    }
    let both = |capability: &Capability| ours.has(capability) && theirs.has(capability);
    Ok(Negotiated {
        peer,
        ibgp,
        hold_time: ours.hold_time.min(theirs.hold_time),
        families,
        four_octet_as: ours.four_octet_as().is_some() && theirs.four_octet_as().is_some(),
        route_refresh: both(&Capability::RouteRefresh),
        enhanced_refresh: both(&Capability::EnhancedRouteRefresh),
        extended_send: both(&Capability::ExtendedMessage),
        extended_receive: ours.has(&Capability::ExtendedMessage),
        graceful: graceful(ours, theirs),
        peer_capabilities: theirs.capabilities.iter().map(ToString::to_string).collect(),
    })
}

fn graceful(ours: &Open, theirs: &Open) -> Option<Graceful> {
    let find = |open: &Open| {
        open.capabilities.iter().find_map(|capability| match capability {
            Capability::GracefulRestart { restarting, notification, restart_time, families } => {
                let ours = families.iter().filter_map(|(afi, safi, _)| Family::from_wire(*afi, *safi)).collect();
                let restarting = *restarting && !families.is_empty();
                Some(Graceful { restarting, notification: *notification, restart_time: *restart_time, families: ours })
            }
            _ => None,
        })
    };
    let (ours, theirs) = (find(ours)?, find(theirs)?);
    Some(Graceful { notification: ours.notification && theirs.notification, ..theirs })
}
