//! Services that no endpoint of this node may answer for, because this site does not have their lease.

use super::Balancer;
use super::io::Action;
use super::room::Room;
use super::service::Service;
use crate::service::ServiceKey;
use crate::time::Instant;

impl Balancer {
    /// No endpoint of this node may answer for the service, or they may again. Checks go on, and nodes and sites stay homes: what is held is the
    /// last step only. No packet finds an endpoint of it here, of a new flow or of one that it has, and the endpoint's own packets are its own;
    /// the flows that the programs know are the driver's to remove. Kept until the end of the process, also for services yet to come.
    pub fn handle_hold(&mut self, service: ServiceKey, hold: bool, now: Instant) {
        let changed = if hold { self.nodes.held.insert(service) } else { self.nodes.held.remove(&service) };
        if changed {
            self.mark(service, now);
        }
    }

    /// Nothing here answers for the service, nor will before it is told otherwise: what was owed for that was handed out.
    pub fn is_held(&self, service: &ServiceKey) -> bool {
        let nothing = |known: &Service| known.local.table.rows == 0 && known.built;
        self.nodes.held.contains(service)
            && self.room.actions.is_empty()
            && self.services.get(service).is_none_or(nothing)
    }
}

/// Takes the second level away, if there is one.
pub(super) fn close(service: &mut Service, room: &mut Room, now: Instant) {
    let table = service.local.table;
    if table.rows > 0 {
        service.local = service.local.dropped();
        room.owe(Action::SwapEndpoints { slot: service.slot, table: service.local.table });
        room.unlink_table(table, now);
    }
}
