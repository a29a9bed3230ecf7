//! The live matrix: Bascule on a node beside every foreign router, one feature at a time, judged by what the router says.

mod cells;
mod subject;

use std::fmt;

use super::Kind;
use crate::Result;

/// One thing that Bascule and a router must manage together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Session over IPv4, capabilities, a route with every attribute, and its end.
    Ipv4,
    /// The same over IPv6.
    Ipv6,
    /// TCP-MD5 (RFC 2385): with the right password a session, with a wrong one none.
    Md5,
    /// GTSM (RFC 5082), one hop.
    Gtsm,
    /// A session that allows for three hops.
    Multihop,
    /// The router asks for the routes again (RFC 2918).
    Refresh,
    /// A planned restart of the daemon: the router keeps the route all the time (RFC 4724).
    GracefulRestart,
    /// SIGTERM: GRACEFUL_SHUTDOWN (RFC 8326), then the withdrawal, then the end of the session.
    Drain,
    /// The router ends the session when it gets too many prefixes, and Bascule does so (RFC 4486).
    MaxPrefix,
    /// Both dial: one session, and it stays (RFC 4271 6.8).
    Collision,
    /// Hold time 0: a session without keepalives.
    HoldZero,
    /// Hold time 3 s, the shortest: negotiated and kept.
    HoldThree,
    /// The router is killed and comes back.
    PeerRestart,
    /// BFD at 300 ms x 3 (RFC 5881).
    Bfd300,
    /// BFD at 50 ms x 3.
    Bfd50,
    /// BFD with other intervals and multipliers on each side.
    BfdAsymmetric,
    /// BFD of a multihop session (RFC 5883).
    BfdMultihop,
}

impl Feature {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 17] = [
        Self::Ipv4,
        Self::Ipv6,
        Self::Md5,
        Self::Gtsm,
        Self::Multihop,
        Self::Refresh,
        Self::GracefulRestart,
        Self::Drain,
        Self::MaxPrefix,
        Self::Collision,
        Self::HoldZero,
        Self::HoldThree,
        Self::PeerRestart,
        Self::Bfd300,
        Self::Bfd50,
        Self::BfdAsymmetric,
        Self::BfdMultihop,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Md5 => "MD5",
            Self::Gtsm => "GTSM",
            Self::Multihop => "multihop",
            Self::Refresh => "route refresh",
            Self::GracefulRestart => "graceful restart",
            Self::Drain => "drain",
            Self::MaxPrefix => "maximum prefix",
            Self::Collision => "collision",
            Self::HoldZero => "hold 0",
            Self::HoldThree => "hold 3",
            Self::PeerRestart => "peer restart",
            Self::Bfd300 => "BFD 300x3",
            Self::Bfd50 => "BFD 50x3",
            Self::BfdAsymmetric => "BFD asymmetric",
            Self::BfdMultihop => "BFD multihop",
        }
    }
}

/// One cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cell {
    /// The router.
    pub peer: Kind,
    /// What is tried.
    pub feature: Feature,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer.name(), self.feature.name())
    }
}

/// How a cell ended.
#[derive(Debug)]
pub enum Outcome {
    /// It holds; what the router said.
    Holds(String),
    /// The router as packaged cannot do it; why.
    Cannot(&'static str),
}

impl Cell {
    /// Every cell, peer by peer.
    pub fn all() -> Vec<Self> {
        let of = |peer: Kind| Feature::ALL.into_iter().map(move |feature| Self { peer, feature });
        Kind::ALL.into_iter().flat_map(of).collect()
    }

    /// Why the router cannot do this, when it cannot.
    pub fn cannot(self) -> Option<&'static str> {
        let bfd =
            matches!(self.feature, Feature::Bfd300 | Feature::Bfd50 | Feature::BfdAsymmetric | Feature::BfdMultihop);
        match (self.peer, self.feature) {
            (Kind::GoBgp, _) if bfd => Some("GoBGP 3.10 has no BFD"),
            (Kind::OpenBgpd, _) if bfd => Some("OpenBGPD has no BFD"),
            (Kind::ExaBgp, _) if bfd => Some("ExaBGP has no BFD"),
            (Kind::GoBgp, Feature::Refresh) => Some("GoBGP sends no ROUTE-REFRESH: it keeps what it has heard"),
            (Kind::ExaBgp, Feature::GracefulRestart) => {
                Some("ExaBGP keeps no routes that it could hold for a neighbour")
            }
            _ => None,
        }
    }

    /// Tries it.
    ///
    /// # Errors
    /// What did not hold, with what the router said last.
    pub fn run(self) -> Result<Outcome> {
        match self.cannot() {
            Some(reason) => Ok(Outcome::Cannot(reason)),
            None => cells::run(self).map(Outcome::Holds),
        }
    }
}
