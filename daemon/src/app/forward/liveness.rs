//! Which nodes are reachable: as their BFD sessions say; without one a node is taken to be up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bascule_core::bfd::config::PeerConfig;
use bascule_core::service::NodeSpec;
use bascule_core::time::Instant;

/// A node whose session has not come up so long after it was configured is down.
const FIRST_CONTACT: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Addresses of nodes with a session.
    watched: BTreeSet<IpAddr>,
    /// Those that were never heard of, and until when they are waited for.
    awaited: BTreeMap<IpAddr, Instant>,
    /// Peers that are up, whether nodes or not: what becomes a node is known then.
    up: BTreeSet<IpAddr>,
    down: BTreeSet<IpAddr>,
}

impl Liveness {
    /// The nodes and the sessions that there shall be.
    pub(super) fn configure<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a NodeSpec>,
        bfd: &[PeerConfig],
        now: Instant,
    ) {
        let has_session = |address: &&IpAddr| bfd.iter().any(|peer| peer.remote == **address);
        let watched: BTreeSet<IpAddr> = nodes.flat_map(|node| &node.addresses).filter(has_session).copied().collect();
        self.down.retain(|address| watched.contains(address));
        self.awaited.retain(|address, _| watched.contains(address));
        for address in watched.difference(&self.watched).filter(|address| !self.up.contains(address)) {
            self.awaited.insert(*address, now + FIRST_CONTACT);
        }
        self.watched = watched;
    }

    /// A session came up or went down.
    pub(super) fn heard(&mut self, remote: IpAddr, up: bool) {
        self.awaited.remove(&remote);
        if up {
            self.up.insert(remote);
            self.down.remove(&remote);
        } else {
            self.up.remove(&remote);
            if self.watched.contains(&remote) {
                self.down.insert(remote);
            }
        }
    }

    /// Ends the patience with sessions that never came up; true when one is down for it.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let late: Vec<IpAddr> = self.awaited.iter().filter(|(_, until)| **until <= now).map(|(a, _)| *a).collect();
        for address in &late {
            self.heard(*address, false);
        }
        !late.is_empty()
    }

    /// Is the node reachable, as far as is known?
    pub(super) fn is_up(&self, node: &NodeSpec) -> bool {
        !node.addresses.iter().any(|address| self.down.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeSpec {
        NodeSpec {
            name: format!("n{n}"),
            id: n.into(),
            addresses: vec![[10, 9, 0, n].into()],
            site: 1,
            draining: false,
        }
    }

    fn peer(n: u8) -> PeerConfig {
        PeerConfig::new(&format!("n{n}"), [10, 9, 0, n].into())
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn a_node_without_a_session_is_up() {
        let mut liveness = Liveness::default();
        liveness.configure([node(1)].iter(), &[], at(0));
        liveness.heard([10, 9, 0, 1].into(), false);
        assert!(!liveness.expire(at(60)) && liveness.is_up(&node(1)));
    }

    #[test]
    fn a_session_decides_and_one_that_never_came_up_is_waited_for() {
        let mut liveness = Liveness::default();
        let nodes = [node(1), node(2), node(3)];
        // One was up before it was a node.
        liveness.heard([10, 9, 0, 3].into(), true);
        liveness.configure(nodes.iter(), &[peer(1), peer(2), peer(3)], at(0));
        liveness.heard([10, 9, 0, 1].into(), true);
        assert!(!liveness.expire(at(9)) && nodes.iter().all(|node| liveness.is_up(node)));
        assert!(liveness.expire(at(10)));
        assert_eq!(nodes.each_ref().map(|node| liveness.is_up(node)), [true, false, true]);
        liveness.heard([10, 9, 0, 1].into(), false);
        liveness.heard([10, 9, 0, 2].into(), true);
        assert_eq!(nodes.each_ref().map(|node| liveness.is_up(node)), [false, true, true]);
        // Its session is gone: nobody says that it is down.
        liveness.configure(nodes.iter(), &[peer(2), peer(3)], at(11));
        assert!(liveness.is_up(&nodes[0]));
    }
}
