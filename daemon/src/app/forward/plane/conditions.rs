//! What an operator should know of the plane, in words.

use bascule_core::balance::status::ServiceStatus;

use super::Plane;
use crate::handle::forward::Standing;

impl Plane {
    /// All of it.
    pub(in crate::app::forward) fn conditions(&self) -> Vec<String> {
        let standings: Vec<Standing> = self.standings.values().cloned().collect();
        let facts = self.forward.iter().flat_map(|forward| forward.conditions(&standings));
        let services = self.balancer.status().services;
        let of_services = services.iter().flat_map(|service| [forgotten(service), delegated(service)]).flatten();
        let own = self.problem.iter().chain(&self.terms.problem).chain(self.refused.values()).cloned();
        own.chain(facts).chain(of_services).collect()
    }
}

fn forgotten(service: &ServiceStatus) -> Option<String> {
    let ServiceStatus { name, forgotten, .. } = service;
    (*forgotten > 0).then(|| {
        format!("{name}: {forgotten} rows lost their oldest home within the drain time: connections there break when they come by them")
    })
}

fn delegated(service: &ServiceStatus) -> Option<String> {
    let ServiceStatus { name, delegated, .. } = service;
    (*delegated > 0).then(|| {
        format!("{name}: the stack delivers to {delegated} of its endpoints here (delegate): their network namespace is not found")
    })
}
