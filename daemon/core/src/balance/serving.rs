//! What this site can say of a service to other sites.

use super::Balancer;
use super::io::ServiceSlot;
use crate::service::ServiceKey;

/// Endpoints of a service, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Serving {
    /// Take new connections because they are ready, not because nobody is.
    pub ready: u16,
    /// Shall take some: those with a weight.
    pub expected: u16,
    /// The service is to take none, by configuration or by hand.
    pub draining: bool,
}

impl Balancer {
    /// Where the programs count a service; `None` when there is no such service.
    pub fn slot(&self, key: &ServiceKey) -> Option<ServiceSlot> {
        self.services.get(key).map(|service| service.slot)
    }

    /// Counts the endpoints of a service; `None` when there is no such service.
    pub fn serving(&self, key: &ServiceKey) -> Option<Serving> {
        let service = self.services.get(key)?;
        let count = |endpoints: usize| u16::try_from(endpoints).unwrap_or(u16::MAX);
        let weighty = service.spec.endpoints.iter().filter(|e| e.weight > 0);
        let ready = if service.all_unready { 0 } else { service.serving().count() };
        Some(Serving {
            ready: count(ready),
            expected: count(weighty.count()),
            draining: self.nodes.service_draining(service),
        })
    }
}
