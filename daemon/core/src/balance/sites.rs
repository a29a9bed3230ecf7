//! The seam between the policy of sites and the rows of a service.

use super::Balancer;
use crate::service::ServiceKey;
use crate::site::SiteId;
use crate::time::Instant;

impl Balancer {
    /// Whose each slot of a service's site table is, the lowest hashes first; empty: no site but this one. Rows do not follow it yet.
    pub fn handle_sites(&mut self, _key: &ServiceKey, _slots: &[SiteId], _now: Instant) {}
}
