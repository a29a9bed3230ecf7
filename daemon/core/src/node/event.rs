//! What a node tells about itself: one event per state change, made at the only place where that state changes.

use core::net::IpAddr;
use core::time::Duration;

use serde::Serialize;

use crate::announce::route::Want;
use crate::election::Reason;
use crate::election::lease::Condition;
use crate::types::{Mac, Role, Term};

/// A state change or an observation worth a line.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The role of a group changed.
    Role {
        /// Group.
        group: String,
        /// Before.
        from: Role,
        /// Now.
        to: Role,
        /// Why.
        reason: Reason,
        /// Claim number; of the last claim when not Active.
        term: Term,
        /// The other owner, if known.
        owner: Option<IpAddr>,
    },
    /// A claim became visible: how long each phase of the failover took, in seconds.
    Takeover {
        /// Group.
        group: String,
        /// Claim number.
        term: Term,
        /// Why.
        reason: Reason,
        /// Last sign of the former owner -> decision; absent when there was none.
        detect: Option<f64>,
        /// Decision -> addresses on the link; absent when they were late.
        claim: Option<f64>,
        /// Decision -> first announcement.
        announce: f64,
    },
    /// Somebody else behaves as owner while we are Active.
    Rival {
        /// Group.
        group: String,
        /// Address claimed; absent when the claim is a VRRP advert for the whole group.
        address: Option<IpAddr>,
        /// Its MAC, when seen in ARP or NDP.
        mac: Option<Mac>,
        /// Its address, when seen in VRRP.
        source: Option<IpAddr>,
        /// True for the first of a series; only this one is logged.
        first: bool,
    },
    /// We stepped down from an Active that cannot hear us.
    OneWay {
        /// Group.
        group: String,
        /// The Active we yielded to.
        source: Option<IpAddr>,
    },
    /// The fence closed because no advert left in time.
    FenceClosed {
        /// Group.
        group: String,
        /// Claim that ended.
        term: Term,
    },
    /// A foreign host holds an address: no claim.
    AddressInUse {
        /// Group.
        group: String,
        /// Which.
        address: IpAddr,
        /// Who.
        mac: Mac,
    },
    /// Another virtual router with other addresses uses our VRID on this link (`true`), or stopped to (`false`).
    VridInUse {
        /// Group.
        group: String,
        /// VRID.
        vrid: u8,
        /// Who.
        source: Option<IpAddr>,
        /// Condition holds.
        active: bool,
    },
    /// A gate opened or closed.
    Gate {
        /// Gate.
        gate: String,
        /// Open.
        up: bool,
        /// Last probe in words.
        detail: String,
    },
    /// The gates of a group as a whole changed.
    Health {
        /// Group.
        group: String,
        /// All open.
        healthy: bool,
        /// Priority in force.
        priority: u8,
    },
    /// An address that somebody removed was put back.
    AddressRestored {
        /// Group.
        group: String,
        /// Which.
        address: IpAddr,
    },
    /// Addresses could not be put on the link.
    InstallFailed {
        /// Group.
        group: String,
        /// The kernel's words.
        error: String,
    },
    /// The routes of a VIP are wanted otherwise than before.
    Routes {
        /// VIP.
        group: String,
        /// What is wanted from now on.
        want: Want,
        /// Of which addresses.
        addresses: Vec<IpAddr>,
    },
    /// A planned hand-over ended.
    Handover {
        /// Group.
        group: String,
        /// The new owner, when it worked.
        to: Option<IpAddr>,
        /// Why it did not.
        error: Option<String>,
    },
    /// A group cannot take part, or can again (`None`).
    Blocked {
        /// Group.
        group: String,
        /// Why.
        condition: Option<String>,
    },
    /// The lease of a group names somebody else than before.
    LeaseHolder {
        /// Group.
        group: String,
        /// Who holds it, as far as is known; absent: nobody.
        holder: Option<String>,
    },
    /// The store of a group's lease answers otherwise than before.
    LeaseStore {
        /// Group.
        group: String,
        /// How.
        condition: Condition,
        /// In its own words, when it does not do what it should.
        detail: Option<String>,
    },
    /// The elector of a group was held up.
    LeaseStalled {
        /// Group.
        group: String,
        /// For so long.
        seconds: f64,
    },
    /// A configuration is in force.
    ConfigApplied {
        /// Groups that are new.
        added: Vec<String>,
        /// Groups updated in place.
        changed: Vec<String>,
        /// Groups that left the election and came back, or left for good.
        removed: Vec<String>,
        /// Groups that noticed nothing.
        unchanged: usize,
    },
    /// The fence became available or unavailable.
    Fence {
        /// Armed.
        ready: bool,
        /// Why not.
        error: Option<String>,
    },
    /// The node was drained or takes part again.
    Drain {
        /// Drained.
        on: bool,
    },
    /// A packet was refused; counted, and logged for the first of a series.
    Refused {
        /// `vrrp` or `peer`.
        channel: &'static str,
        /// From whom.
        source: IpAddr,
        /// Why.
        error: String,
        /// True for the first of a series; only this one is logged.
        first: bool,
    },
    /// A BFD session changed its state.
    Bfd(crate::bfd::io::BfdEvent),
    /// How late an advert left, in seconds. Measured on every advert, never logged.
    AdvertLateness {
        /// Group.
        group: String,
        /// Lateness.
        seconds: f64,
    },
}

/// Seconds of a duration, for [`Event`] and metrics.
pub(crate) fn seconds(d: Duration) -> f64 {
    d.as_secs_f64()
}
