//! What the rest of the process may know of sites: a snapshot, and why the traffic of each service went where it goes.

mod orders;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bascule_core::site::SiteId;
use bascule_core::site::handshakes::Totals;
use bascule_core::site::join::demand::Brought;
use bascule_core::site::lead::Gone;
use bascule_core::site::orders::Target;
use bascule_core::site::policy::Opinion;
use bascule_core::site::summary::Summary;
use bascule_core::site::timeline::Timeline;
use bascule_core::time::Instant;
use bascule_mesh::feed::Status as FeedStatus;
use bascule_mesh::path::PathStatus;
use bascule_mesh::state::{SessionStatus, Status as StateStatus};
use serde::Serialize;
use tokio::sync::mpsc;

use orders::Orders;
pub use orders::{DrainView, OrderRequest, Wanted};

/// A snapshot.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SitesStatus {
    /// Name of this site.
    pub site: String,
    /// This node.
    pub node: String,
    /// This node's relay, where it is one.
    pub relay: Option<String>,
    /// It speaks for the site.
    pub leads: bool,
    /// Who does, as far as this node hears.
    pub leader: Option<String>,
    /// Relays of this site that are heard, this node's among them.
    pub heard: Vec<String>,
    /// Those that were heard and are not any more, since the start, by how that became known.
    pub gone: Gone,
    /// No other site is heard.
    pub isolated: bool,
    /// What an operator should know, in words.
    pub conditions: Vec<String>,
    /// All sites but this one.
    pub sites: Vec<SiteView>,
    /// Services of several sites.
    pub services: Vec<ServiceView>,
    /// What operators have taken out of use, here and elsewhere.
    pub drains: Vec<DrainView>,
    /// The relay of this node; `None` without one that runs.
    pub state: Option<StateStatus>,
    /// What it tells the nodes of its site.
    pub feed: Option<FeedStatus>,
    /// What relays of this site said that only later versions know, since the start.
    pub unknown_words: u64,
    /// Counts of its nodes that are of no service here: not taken.
    pub unwanted_counts: u64,
}

/// Another site.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteView {
    /// Its number.
    pub id: SiteId,
    /// Its name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// A relay of this site has a session with it.
    pub session: bool,
    /// Which have one, as this node hears it.
    pub relays: Vec<RelayView>,
    /// What other sites say of it, whose word counts now; empty: nobody can say.
    pub others: Vec<OtherView>,
    /// Seconds since the oldest of what it said was confirmed; `None`: it has said nothing.
    pub age_seconds: Option<f64>,
    /// The session of this node's relay, if it is one.
    pub state: Option<SessionStatus>,
    /// The path from this node; `None`: it is not probed.
    pub path: Option<PathStatus>,
    /// Its gateways that probes of this node do not reach: nothing is sent to them.
    pub silent_gateways: Vec<String>,
}

/// A relay of this site that has a session with another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayView {
    /// Its name.
    pub relay: String,
    /// Its word counts at this node: that of the relay that leads, then by name.
    pub counts: bool,
}

/// What a third site says of another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OtherView {
    /// Which site says so.
    pub site: String,
    /// It reaches it, by a path or by a session.
    pub reaches: bool,
}

/// A service of several sites.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its number in all sites.
    pub number: u32,
    /// `localFirst`, `weighted` or `activePassive`.
    pub mode: &'static str,
    /// Tables so far.
    pub tables: u64,
    /// Share of new flows that goes to other sites, 0 to 1.
    pub spill: f64,
    /// What clients bring to this node and to the site, and what is lent.
    pub brought: Brought,
    /// Of an `activePassive` service: who has it.
    pub lease: Option<LeaseView>,
    /// How each site stands.
    pub sites: Vec<StandingView>,
}

/// Who has a service that one site at a time has.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseView {
    /// The site that has it, as the authority said last; `None`: nobody.
    pub holder: Option<String>,
    /// How the authority answers this node.
    pub authority: &'static str,
    /// Its own words, where it does not.
    pub detail: Option<String>,
    /// Why this site does not ask for it; `None`: it does.
    pub refrains: Option<&'static str>,
    /// This node's right to serve it.
    pub grant: Option<GrantView>,
    /// How often this node was given it.
    pub grants: u64,
    /// This node's right was given up as planned, and there was none since.
    pub handed: Option<HandedView>,
    /// How often that was so, by why.
    pub handovers: BTreeMap<&'static str, u64>,
}

/// The end of a right that was given up as planned.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedView {
    /// Why.
    pub reason: &'static str,
    /// Seconds since this node was silent.
    pub seconds: f64,
}

/// The right of a node to serve a service.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantView {
    /// The term: the revision of the authority in which the site won. It only grows, over all sites.
    pub term: u64,
    /// Seconds that it lasts without a further proof.
    pub seconds: f64,
}

/// A service at a site.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StandingView {
    /// The site's name.
    pub name: String,
    /// What the policy thinks.
    #[serde(flatten)]
    pub opinion: Opinion,
    /// What the site said.
    pub summary: Option<Summary>,
    /// What became of handshakes that were sent there, since this node counts.
    pub handshakes: Totals,
}

/// Why the traffic of a service goes where it goes.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// The service.
    pub service: String,
    /// Names of sites by their numbers.
    pub names: BTreeMap<SiteId, String>,
    /// Changes of its table, the oldest first. Times are of this node's clock.
    pub changes: Vec<Timeline>,
    /// Drains that take the service from a site.
    pub drains: Vec<DrainView>,
    /// Who has it, where one site at a time has.
    pub lease: Option<LeaseView>,
    /// What clients bring of it now, and what is lent.
    pub brought: Option<Brought>,
    /// The clock when this was asked.
    pub now: Instant,
}

/// The asking side, and that of the room; cheap to clone.
#[derive(Clone, Default)]
pub struct SitesHandle {
    status: Arc<Mutex<Option<Arc<SitesStatus>>>>,
    why: Arc<Mutex<BTreeMap<String, Arc<Why>>>>,
    orders: Orders,
}

impl SitesHandle {
    /// The latest snapshot, at most a second old; `None`: this site is alone.
    pub fn get(&self) -> Option<Arc<SitesStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest changes of a service's table; `None`: it is no service of several sites.
    pub fn why(&self, service: &str) -> Option<Arc<Why>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).get(service).cloned()
    }

    /// Another snapshot. What is said of services that it does not have is forgotten.
    pub fn set(&self, status: SitesStatus) {
        let names = |why: &String| status.services.iter().any(|service| service.name == *why);
        self.why.lock().unwrap_or_else(PoisonError::into_inner).retain(|why, _| names(why));
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(status));
    }

    /// Where the room takes orders.
    pub fn open_orders(&self) -> mpsc::Receiver<OrderRequest> {
        self.orders.open()
    }

    /// Gives an order, or takes one back; what became of it in one line.
    ///
    /// # Errors
    /// Why nothing became of it, in one line.
    pub async fn order(&self, target: Target, wanted: Wanted) -> Result<String, String> {
        self.orders.give(target, wanted).await
    }

    /// A service's table changed.
    pub fn set_why(&self, why: Why) {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).insert(why.service.clone(), Arc::new(why));
    }
}
