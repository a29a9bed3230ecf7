//! Decisions between sites, without I/O: what a path is worth, who takes new flows, and what sites tell one another.
//!
//! Three planes that never share fate: [`path`] (probes, node to node), [`state`] (records between relays; [`partner`]: between which) and, outside this crate,
//! authority. [`policy`] joins their facts into the site table of each service; [`join`] is what one node makes of all of it, with [`lead`] for who
//! of a site's relays leads, [`near`] for what packets
//! must know of other sites, [`gateways`] for which of their nodes take them, [`orders`] for what operators take out of use, [`demand`] for what clients bring, [`handshakes`] for what
//! becomes of it, and [`evidence`] for what that says of paths. Drivers for paths and state are in `daemon/mesh`.

pub mod demand;
pub mod evidence;
pub mod gateways;
pub mod handshakes;
pub mod join;
pub mod lead;
pub mod near;
pub mod orders;
pub mod partner;
pub mod path;
pub mod policy;
pub mod state;
pub mod summary;
pub mod timeline;

use serde::Serialize;

/// A site, as rows, probes and records name it: 1..=254, unique among the sites that know one another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(transparent)]
pub struct SiteId(pub u8);

impl core::fmt::Display for SiteId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "site {}", self.0)
    }
}
