//! What goes into the machine and what comes out of it.

use core::time::Duration;
use std::collections::BTreeMap;

use serde::Serialize;

use crate::balance::sites::SiteSpec;
use crate::service::ServiceKey;
use crate::site::SiteId;
use crate::site::demand::{Count, Rate};
use crate::site::lead::Beat;
use crate::site::orders::{Target, Turn};
use crate::site::policy::io::{Config as PolicyConfig, ReleaseReason, Report as PolicyReport};
use crate::site::state::record::{Body, Key};
use crate::site::summary::{ServiceId, Summary};
use crate::site::timeline::Timeline;

/// What a service can carry here, in new flows a second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Capacity {
    /// Nobody said.
    #[default]
    Unknown,
    /// With all endpoints ready.
    Service(u32),
    /// Each endpoint.
    Endpoint(u32),
}

/// A service as this site has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Local {
    /// Its name, for people.
    pub name: String,
    /// What the balancer calls it.
    pub key: ServiceKey,
    /// What it can carry.
    pub capacity: Capacity,
}

/// All that there shall be; applied as a difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Sites and how services are spread over them.
    pub policy: PolicyConfig,
    /// The same services here.
    pub services: BTreeMap<ServiceId, Local>,
    /// Names of the relays of this site.
    pub relays: Vec<String>,
    /// That of this node.
    pub relay: Option<String>,
}

/// What is known of another site, from a relay to all nodes of its own.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fact {
    /// A session of this relay with it stands, or does not.
    Session {
        /// Which site.
        site: SiteId,
        /// It stands.
        up: bool,
    },
    /// What it says of a service; `None`: nothing any more.
    Summary {
        /// Which site.
        site: SiteId,
        /// Of which service.
        service: ServiceId,
        /// What.
        summary: Option<Summary>,
        /// How long ago it was observed there.
        age: Duration,
    },
    /// All that is held of the site is still so, as of so long ago.
    Confirmed {
        /// Which site.
        site: SiteId,
        /// How long ago.
        age: Duration,
    },
    /// It asks for room.
    Ask {
        /// Which site.
        site: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// It lends room.
    Loan {
        /// Which site.
        site: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// What clients bring to this site of a service, at all its nodes.
    Demand {
        /// Of which service.
        service: ServiceId,
        /// How much; 0: nothing.
        rate: Rate,
    },
    /// An order of this site is in force, or is not any more.
    Order {
        /// What it takes out of use.
        target: Target,
        /// Time until its deadline; `None`: it is not in force.
        left: Option<Duration>,
    },
    /// Another site has written an order, or has none of this number any more. What follows from it is in its summaries.
    Drained {
        /// Which site.
        site: SiteId,
        /// Number of the record.
        number: u32,
        /// The service (`None`: all) and the seconds that connections had when it was written.
        order: Option<(Option<ServiceId>, u32)>,
        /// How long ago that was.
        age: Duration,
    },
    /// A site says that it reaches a third one, or does not. It is said again with each of its beats, and ages.
    Reach {
        /// Which site says so.
        site: SiteId,
        /// Of which.
        of: SiteId,
        /// It reaches it.
        reached: bool,
    },
}

/// Who told a fact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source<'a> {
    /// The relay of this node.
    Own,
    /// Another relay of this site.
    Relay(&'a str),
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub enum Action {
    /// Give the balancer the owner of each slot; then, if there is a generation, call [`super::Join::handle_applied`].
    Table {
        /// The service.
        service: ServiceId,
        /// What the balancer calls it.
        key: ServiceKey,
        /// Which table; `None`: the service is no service of several sites any more.
        generation: Option<u64>,
        /// Owner of each slot, lowest hashes first; empty: nobody serves.
        slots: Vec<SiteId>,
    },
    /// Tell the balancer of other sites, the nearest first: [`crate::balance::Balancer::handle_neighbours`].
    Neighbours(Vec<SiteSpec>),
    /// The relay of this node is this from now on: it speaks for the site, or leaves that to another one; and says so to the nodes.
    Lead(Beat),
    /// The site writes a record, through the relay of this node; `None`: there is none any more.
    Write(Key, Option<Body>),
    /// Take endpoints of this site out of use, or put them back: of a node, or one. At the balancer.
    Drain {
        /// [`Target::Node`] or [`Target::Endpoint`].
        target: Target,
        /// Out of use.
        on: bool,
    },
    /// Ask a site for room, or lend it some, through the relay of this node.
    Credit {
        /// Which site.
        to: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
        /// Lend, not ask.
        lend: bool,
    },
    /// Tell all other sites what this one reaches, through the relay of this node: all of it.
    Reach(BTreeMap<SiteId, bool>),
    /// From now on try to get the lease of an activePassive service, and renew it.
    Claim(ServiceId),
    /// From now on do not.
    Release(ServiceId, ReleaseReason),
    /// Tell the other nodes of this site.
    Publish(Fact),
    /// Tell every relay of this site but that of this node what clients bring here. What is not heard is said again within a second.
    Say(Vec<Count>),
    /// Log it, count it, show it.
    Report(Report),
    /// A finished timeline.
    Timeline(Timeline),
}

/// A state change.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Report {
    /// Of the policy.
    Policy(PolicyReport),
    /// Another relay speaks for this site; `None`: none is heard.
    Leader {
        /// Its name.
        relay: Option<String>,
    },
    /// A session with a site came or went.
    Session {
        /// Which site.
        site: SiteId,
        /// It stands.
        up: bool,
    },
    /// What others say of a site to which no path carries from here is another thing.
    Away {
        /// Which site.
        site: SiteId,
        /// What.
        away: Away,
    },
    /// An order of this site was given, is over, or was taken back.
    Order {
        /// What it takes out of use.
        target: Target,
        /// What became of it.
        turn: Turn,
    },
}

/// What is known of a site to which no path carries from here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Away {
    /// These sites reach it, and have for longer than a session outlives its other end: the way from here is broken, not the site.
    Asymmetric(Vec<SiteId>),
    /// There is no session with it, and none of the others reaches it, as these say: it is dead, as far as anybody can tell.
    Dead(Vec<SiteId>),
    /// Neither any more: a path carries, a session stands, or nobody can say.
    Over,
}
