//! What a site says of a service: all that crosses the WAN for it, whatever its number of endpoints.

use serde::Serialize;

/// Number of a service in the dictionary that all sites share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(transparent)]
pub struct ServiceId(pub u32);

/// One service at one site (sites.md 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Endpoints that take new flows.
    pub ready: u16,
    /// Endpoints that there shall be: what `ready` is compared with.
    pub expected: u16,
    /// The site takes no new flows of the service, by an order.
    pub draining: bool,
    /// What the ready endpoints can carry, in any unit that all sites share (flows a second, say); 0: not known.
    pub capacity: u32,
    /// What clients bring to this site, wherever it is carried, in the same unit; 0: nothing, or not known.
    pub demand: u32,
}

impl Summary {
    /// Can anything be carried?
    pub const fn serves(&self) -> bool {
        self.ready > 0 && !self.draining
    }

    /// Share of the expected endpoints that carry, with 1.4 times what is needed taken as all of it (Envoy's overprovisioning factor).
    pub fn availability(&self) -> f64 {
        if self.expected == 0 {
            return if self.ready > 0 { 1.0 } else { 0.0 };
        }
        (1.4 * f64::from(self.ready) / f64::from(self.expected)).min(1.0)
    }
}
