//! What goes into the machine and what comes out of it.

use std::collections::BTreeMap;

use serde::Serialize;
use thiserror::Error;

use super::facts::{Observed, Verdict};
use super::standing::State;
use crate::site::SiteId;
use crate::site::summary::ServiceId;
use crate::site::timeline::Timeline;

/// How a service is spread over sites.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Here while here can; what exceeds goes where there is room, the own region first.
    #[default]
    LocalFirst,
    /// By weight, whatever the place of the client.
    Weighted(BTreeMap<SiteId, u32>),
    /// At one site, the holder of the lease; the order says who should hold it.
    ActivePassive {
        /// The best first.
        order: Vec<SiteId>,
        /// Whether a better site takes over from a healthy one.
        failback: Failback,
    },
}

/// What happens when a better site is well again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Failback {
    /// An operator moves it.
    #[default]
    Manual,
    /// It moves after [`super::FAILBACK`] of health.
    Automatic,
}

/// What a site does that hears nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Isolated {
    /// Serves who still reaches it.
    #[default]
    ServeLocal,
    /// Takes its VIP back: clients are better off elsewhere.
    Withdraw,
}

/// How one service is spread.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServicePolicy {
    /// Over sites.
    pub mode: Mode,
    /// When this site is cut off.
    pub isolated: Isolated,
}

/// All that there shall be; applied as a difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This site.
    pub here: SiteId,
    /// All sites and their regions.
    pub sites: BTreeMap<SiteId, String>,
    /// Services.
    pub services: BTreeMap<ServiceId, ServicePolicy>,
    /// Spill by credits. Off: what exceeds stays (the simulator's proof that credits are what holds the bound).
    pub spill: bool,
}

/// What an order takes from a service at this site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Takes {
    /// All that it has here.
    All,
    /// So many of its ready endpoints.
    Endpoints(u16),
}

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Ready endpoints.
    Endpoints,
    /// Units of capacity.
    Capacity,
}

impl core::fmt::Display for Unit {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Endpoints => "endpoints",
            Self::Capacity => "units of capacity",
        })
    }
}

/// Why a drain is not begun.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize)]
pub enum DrainError {
    /// What is left would not carry the demand and a tenth.
    #[error("a capacity of {left} would be left for a demand of {demand}, {needed} are needed")]
    Capacity {
        /// The service that would suffer.
        service: ServiceId,
        /// Capacity that would be left.
        left: u64,
        /// Demand at all sites.
        demand: u64,
        /// 110 % of it.
        needed: u64,
    },
    /// The demand is not known, and less than half of all that there shall be would be left.
    #[error("{left} of {all} {unit} would be left, {needed} are needed")]
    Half {
        /// The service that would suffer.
        service: ServiceId,
        /// What would be left.
        left: u64,
        /// What there shall be at all sites.
        all: u64,
        /// Half of it.
        needed: u64,
        /// Of what.
        unit: Unit,
    },
    /// Nobody else serves it at all.
    #[error("nobody else serves it")]
    Last {
        /// The service.
        service: ServiceId,
    },
}

impl DrainError {
    /// The service that would suffer.
    pub const fn service(&self) -> ServiceId {
        match self {
            Self::Capacity { service, .. } | Self::Half { service, .. } | Self::Last { service } => *service,
        }
    }
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub enum Action {
    /// The table of a service: whose each slot is. Apply it, then call [`super::Policy::handle_applied`].
    Table(Table),
    /// Ask a site for room (every second while there is an excess).
    Ask {
        /// Whom.
        to: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        excess: u32,
    },
    /// Lend room to a site.
    Lend {
        /// Whom.
        to: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// From now on try to get the lease of an activePassive service, and renew it.
    Claim(ServiceId),
    /// From now on do not. For a reason that [is planned](ReleaseReason::is_planned) a lease that is held is handed over: close first, release then.
    /// Otherwise it is used to the end of what was proven, and no further: the fence closes then.
    Release(ServiceId, ReleaseReason),
    /// Take the VIP of a service back from the network, or announce it again.
    Announce {
        /// The service.
        service: ServiceId,
        /// Announce or withdraw.
        announce: bool,
    },
    /// Log it, count it, show it.
    Report(Report),
    /// A finished timeline, for the log and `bascule why`.
    Timeline(Timeline),
}

/// Why a lease is not asked for any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseReason {
    /// This site hears nobody.
    Isolated,
    /// It cannot serve.
    NotServing,
    /// It drains, and another site can take it.
    Draining,
    /// A better site is well, and has been.
    Failback,
    /// Another site has it, or goes first.
    Elsewhere,
}

impl ReleaseReason {
    /// Those for which a site hands over.
    pub const PLANNED: [Self; 2] = [Self::Draining, Self::Failback];

    /// Another site shall have it at once: what is held is closed and released, instead of being used to its end.
    pub const fn is_planned(self) -> bool {
        match self {
            Self::Draining | Self::Failback => true,
            Self::Isolated | Self::NotServing | Self::Elsewhere => false,
        }
    }

    /// The word for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::NotServing => "not-serving",
            Self::Draining => "draining",
            Self::Failback => "failback",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// The site table of a service.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// The service.
    pub service: ServiceId,
    /// Counts up with each table of the service.
    pub generation: u64,
    /// Share of new flows, 0 to 1, by site.
    pub shares: BTreeMap<SiteId, f64>,
    /// Owner of each slot, lowest hashes first; empty: nobody serves.
    pub slots: Vec<SiteId>,
}

/// A state change.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Report {
    /// A service at a site stands otherwise.
    Standing {
        /// The service.
        service: ServiceId,
        /// The site.
        site: SiteId,
        /// Now.
        state: State,
        /// By which facts.
        verdict: Verdict,
        /// With which score.
        score: f64,
        /// Held back for flapping.
        suppressed: bool,
    },
    /// A site says that a service is ready there, and handshakes with it fail: it gets no new flows for a while.
    Mismatch {
        /// The service.
        service: ServiceId,
        /// The site.
        site: SiteId,
        /// What the data path saw.
        observed: Observed,
        /// For how long.
        seconds: u64,
    },
    /// Nobody took what this site had handed over: it has it again, and does not hand over for a while.
    Kept {
        /// The service.
        service: ServiceId,
        /// For how long.
        seconds: u64,
    },
    /// Soft scores are ignored: too little is usable. Or they count again.
    Panic {
        /// The service.
        service: ServiceId,
        /// Begins or ends.
        on: bool,
    },
    /// No other site is heard, or one is again.
    Isolated(bool),
}
