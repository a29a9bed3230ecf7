//! What services share and give back: rows, slots, and the queue of what the driver owes.

use std::collections::VecDeque;

use super::GRACE;
use super::io::{Action, EndpointSlot, ServiceSlot, Table};
use super::slab::Slab;
use super::slots::Slots;
use crate::time::Instant;

/// Something that nothing leads to any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unlinked {
    /// Rows of a table.
    Rows(u32, u32),
    /// The slot of a service.
    Service(ServiceSlot),
    /// The slot of an endpoint.
    Endpoint(EndpointSlot),
}

/// Limits of the maps behind the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Rows of the slab.
    pub rows: u32,
    /// Slots of services and VIPs; slot 0 is never used.
    pub services: u16,
    /// Slots of endpoints; slot 0 is never used.
    pub endpoints: u16,
}

impl Default for Limits {
    /// The sizes of the maps (version 1 of the forwarding ABI).
    fn default() -> Self {
        Self { rows: 1 << 22, services: 16_384, endpoints: 8192 }
    }
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) slab: Slab,
    pub(super) services: Slots,
    pub(super) endpoints: Slots,
    pub(super) actions: VecDeque<Action>,
    /// In order of time: the grace is the same for all.
    unlinked: VecDeque<(Instant, Unlinked)>,
}

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            slab: Slab::new(limits.rows),
            services: Slots::new(limits.services),
            endpoints: Slots::new(limits.endpoints),
            actions: VecDeque::new(),
            unlinked: VecDeque::new(),
        }
    }

    pub(super) fn owe(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Nothing leads to it from now on.
    pub(super) fn unlink(&mut self, what: Unlinked, now: Instant) {
        self.unlinked.push_back((now + GRACE, what));
    }

    /// The rows of a table are no longer named.
    pub(super) fn unlink_table(&mut self, table: Table, now: Instant) {
        if table.rows > 0 {
            self.unlink(Unlinked::Rows(table.base, u32::from(table.rows)), now);
        }
    }

    /// When something comes back.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.unlinked.front().map(|(at, _)| *at)
    }

    /// Takes back what is due; true when rows came back.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let mut rows_came = false;
        while let Some((_, what)) = self.unlinked.pop_front_if(|(at, _)| *at <= now) {
            match what {
                Unlinked::Rows(base, count) => {
                    self.slab.free(base, count);
                    rows_came = true;
                    self.owe(Action::FreeRows { base, count });
                }
                Unlinked::Service(slot) => {
                    self.services.give(slot.0);
                    self.owe(Action::ClearService { slot });
                }
                Unlinked::Endpoint(slot) => {
                    self.endpoints.give(slot.0);
                    self.owe(Action::RemoveEndpoint { slot });
                }
            }
        }
        rows_came
    }
}
