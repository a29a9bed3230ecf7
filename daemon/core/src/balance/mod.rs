//! From services, nodes and health to the tables that packets are steered by.
//!
//! Contract: feed `handle_*`, one at a time, with a `now` that never goes back; after every call take [`Balancer::poll_action`] until
//! `None` and carry out each action in order; call [`Balancer::handle_expire`] at or after [`Balancer::poll_timeout`]. Inputs only
//! note what changed: tables are rebuilt at the expiry that follows, so that what happens together is one change, on every node the
//! same whatever the order of its parts.

pub mod io;
pub mod rows;

use core::time::Duration;
use std::collections::VecDeque;

use crate::service::EndpointId;
use crate::time::Instant;

pub use io::{Action, Config, Health, Recovered};

/// Nothing that a table word or a key named is used again earlier than this after it was unlinked. A packet is in a program for
/// microseconds; a second also covers a vCPU that was taken away in the middle of one.
pub const GRACE: Duration = Duration::from_secs(1);

/// The machine.
#[derive(Debug, Default)]
pub struct Balancer {
    actions: VecDeque<Action>,
}

impl Balancer {
    /// A machine that knows nothing. A driver that found pinned maps calls [`Self::handle_recovered`] first.
    pub fn new() -> Self {
        Self::default()
    }

    /// What pinned maps hold. Only before the first configuration.
    pub fn handle_recovered(&mut self, _found: Recovered, _now: Instant) {}

    /// All that there shall be; applied as a difference.
    pub fn handle_config(&mut self, _config: Config, _now: Instant) {}

    /// A check of an endpoint came to a conclusion.
    pub fn handle_endpoint_health(&mut self, _endpoint: &EndpointId, _health: Health, _now: Instant) {}

    /// A node (by name) is reachable or is not. Nodes are reachable until they are said not to be.
    pub fn handle_node(&mut self, _node: &str, _up: bool, _now: Instant) {}

    /// A deadline passed.
    pub fn handle_expire(&mut self, _now: Instant) {}

    /// Next thing the driver owes.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Next time [`Self::handle_expire`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
