//! What the machine is told and what it owes.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Serialize;

use super::record::{Body, Key};
use super::version::Speaks;
use crate::site::SiteId;
use crate::site::summary::ServiceId;

/// Services that may pass.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Pass {
    /// None: what an importer starts with.
    #[default]
    None,
    /// These.
    Only(BTreeSet<ServiceId>),
    /// All.
    All,
}

impl Pass {
    /// May it pass?
    pub fn lets(&self, service: Option<ServiceId>) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            // An order for the whole site concerns whoever may know any of it.
            Self::Only(set) => service.is_none_or(|s| set.contains(&s)),
        }
    }
}

/// Another site.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerConfig {
    /// VIPs that it may claim lie in these. From the member list that all sites share, never from the site itself.
    pub prefixes: Vec<IpNet>,
    /// Services that it may know of.
    pub export: Pass,
    /// Services that we want to know of.
    pub import: Pass,
}

/// All that there shall be.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// This site.
    pub here: SiteId,
    /// Random number of this process.
    pub instance: u64,
    /// One more than what the disk says; 1 without one.
    pub incarnation: u64,
    /// For the jitter of back-off.
    pub seed: u64,
    /// Versions that it speaks: [`Speaks::OURS`].
    pub speaks: Speaks,
    /// What it runs, for the people at other sites.
    pub build: String,
    /// Other sites.
    pub peers: BTreeMap<SiteId, PeerConfig>,
}

/// Why a session is closed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// Bytes that are no message.
    Malformed,
    /// More messages or bytes than a site may send.
    Flood,
    /// More records than a site may have.
    TooMany,
    /// Nothing was heard for too long.
    Silent,
    /// The configuration has the site no more.
    Removed,
    /// Parts of a snapshot out of order, or a message before Hello.
    Order,
    /// No version that both ends speak.
    Version,
}

/// Something the driver owes, in this order.
#[derive(Clone, PartialEq, Debug)]
#[must_use]
pub enum Action {
    /// Connect to a relay of the site; report `handle_connected` or `handle_disconnected`.
    Dial(SiteId),
    /// Send a message on the session.
    Send(SiteId, Vec<u8>),
    /// Close the session. No `handle_disconnected` is needed.
    Close(SiteId, CloseReason),
    /// Write the incarnation to the disk, before anything that follows.
    Persist(u64),
    /// A record of another site, for the policy. `None`: there is none any more.
    Record {
        /// Whose.
        origin: SiteId,
        /// About what.
        key: Key,
        /// What it says.
        body: Option<Body>,
        /// How old it is.
        age: Duration,
    },
    /// A site asks for room.
    Ask {
        /// Who.
        from: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// A site lends room.
    Lend {
        /// Who.
        from: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// What a site says that it reaches, all of it: what it does not name any more it knows nothing of. Said again with each of its beats.
    Reach {
        /// Who.
        from: SiteId,
        /// By site.
        reach: BTreeMap<SiteId, bool>,
    },
    /// Log it, count it, show it.
    Report(Report),
}

/// A state change, or something that somebody must look at.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Report {
    /// A session is up: both sides have said Hello.
    Session {
        /// With whom.
        site: SiteId,
        /// Up or down.
        up: bool,
    },
    /// A site claims a VIP that is not in its prefixes. Nothing is announced, nothing is steered.
    ForeignVip {
        /// Who.
        site: SiteId,
        /// What.
        vip: core::net::IpAddr,
    },
    /// Another process writes as this relay of this site. Nothing is exported any more.
    DuplicateSite {
        /// The other process.
        instance: u64,
    },
    /// This site's incarnation is a new one.
    Incarnation(u64),
    /// A site has more of a class than it may have; the rest is not taken.
    TooMany {
        /// Who.
        site: SiteId,
    },
    /// A site speaks no version that we speak: there is no session with it.
    Versions {
        /// Who.
        site: SiteId,
        /// What it speaks.
        theirs: Speaks,
        /// What we speak.
        ours: Speaks,
    },
}

/// Things refused since start, of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// Messages of an earlier incarnation.
    pub stale: u64,
    /// VIPs outside of its prefixes.
    pub foreign: u64,
    /// Records of services that we do not import.
    pub unwanted: u64,
    /// Records beyond the limit of their class, and words of what it reaches that came too fast.
    pub surplus: u64,
    /// Sessions closed by us.
    pub closed: u64,
    /// Parts of messages of later versions, left out.
    pub unknown: u64,
}
