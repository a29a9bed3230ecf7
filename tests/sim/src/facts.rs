//! Questions that the checker asks about a world.

use std::net::IpAddr;

use bascule_core::node::config::WhenAllFail;
use bascule_core::types::Role;

use crate::faults::{Change, Fault};
use crate::host::Host;
use crate::scenario::{MS, Scenario};
use crate::world::World;

impl Scenario {
    /// The longest advert interval that any configuration of the run has, in nanoseconds.
    pub fn longest_interval(&self) -> u64 {
        let changed = self.faults.iter().filter_map(|f| match f.fault {
            Fault::Reload(Change::Interval(cs)) => Some(u64::from(cs)),
            _ => None,
        });
        changed.chain([u64::from(self.interval.get())]).max().unwrap_or(0) * 10 * MS
    }

    /// Every VIP.
    pub fn vips(&self) -> Vec<IpAddr> {
        self.nodes[0].config.groups.iter().flat_map(|g| g.addresses.iter().copied()).collect()
    }

    /// How often clients ask and send.
    pub fn tick(&self) -> u64 {
        (u64::from(self.interval.get()) * 5 * MS).clamp(20 * MS, 100 * MS)
    }

    /// When the last fault before `now` struck.
    pub fn last_fault(&self, now: u64) -> u64 {
        self.faults.iter().map(|f| f.at).filter(|at| *at <= now).max().unwrap_or(0)
    }
}

impl World {
    /// The node's daemon runs, is meant to take part, and is configured for the address.
    pub(crate) fn able(&self, host: &Host, group: usize, address: IpAddr) -> bool {
        let Some(process) = &host.process else { return false };
        let name = format!("g{group}");
        let Some(config) = host.config.groups.iter().find(|g| g.name == name) else { return false };
        let sick = !config.gates.is_empty() && !host.gate && config.when_all_fail == WhenAllFail::Release;
        !process.frozen
            && !process.stopped
            && !host.drained
            && host.carrier
            && !sick
            && config.addresses.contains(&address)
    }

    /// The node could own the group now, and the clients' segment reaches it.
    pub(crate) fn can_own(&self, n: usize, group: usize) -> bool {
        let (host, vip) = (&self.hosts[n], self.scenario.nodes[0].config.groups[group].addresses[0]);
        self.lan.joined(n, self.hosts.len()) && self.able(host, group, vip) && self.settled(host, group)
    }

    fn settled(&self, host: &Host, group: usize) -> bool {
        // A node in Initialize is still probing, or waits after a conflict.
        matches!(self.role(host.index, group), Some(Role::Backup | Role::Active))
    }

    /// Role of a group on a node, as its daemon sees it.
    pub(crate) fn role(&self, n: usize, group: usize) -> Option<Role> {
        let host = &self.hosts[n];
        let status = host.process.as_ref()?.node.status(host.clock.read(self.now));
        let name = format!("g{group}");
        status.groups.iter().find(|g| g.name == name).map(|g| g.role)
    }
}
