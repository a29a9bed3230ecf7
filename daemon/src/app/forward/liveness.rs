//! Which nodes are reachable: as their BFD sessions say; without one a node is taken to be up.
//!
//! A node that is down takes no new flows; whether it still serves those it has is for the balancer to say, from checks of its endpoints. One
//! that has taken leave (AdminDown) is being upgraded, most likely, and its programs serve meanwhile: it is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bascule_core::bfd::config::PeerConfig;
use bascule_core::service::NodeSpec;
use bascule_core::time::Instant;

/// A node whose session has not come up so long after it was configured, or after it took leave, is down: a daemon is replaced in a second
/// or two, and one that does not come back must not be sent new flows for long.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a session says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::app) enum Session {
    /// Both sides hear each other.
    Up,
    /// Nothing is heard any more.
    Lost,
    /// The other side has taken leave (AdminDown): that says nothing about the node (RFC 5882 section 3.2).
    Left,
}

#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// Addresses of nodes with a session.
    watched: BTreeSet<IpAddr>,
    /// Those that were never heard of, or took leave, and until when they are waited for.
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
            self.awaited.insert(*address, now + PATIENCE);
        }
        self.watched = watched;
    }

    /// Sessions begin only now: those that were never heard of are waited for from here on.
    pub(super) fn begin(&mut self, now: Instant) {
        for until in self.awaited.values_mut() {
            *until = now + PATIENCE;
        }
    }

    /// A session came up or ended.
    pub(super) fn heard(&mut self, remote: IpAddr, session: Session, now: Instant) {
        if session != Session::Up {
            self.up.remove(&remote);
        }
        match session {
            Session::Up => {
                self.awaited.remove(&remote);
                self.down.remove(&remote);
                self.up.insert(remote);
            }
            Session::Lost | Session::Left if !self.watched.contains(&remote) => {}
            Session::Lost => {
                self.down.insert(remote);
            }
            Session::Left => {
                self.awaited.insert(remote, now + PATIENCE);
            }
        }
    }

    /// Ends the patience with sessions that never came up or did not come back; true when a node is down for it.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let late = self.awaited.extract_if(.., |_, until| *until <= now).map(|(address, _)| address);
        let before = self.down.len();
        self.down.extend(late);
        self.down.len() != before
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
        NodeSpec { name: format!("n{n}"), id: n.into(), addresses: vec![address(n)], site: 1, draining: false }
    }

    fn address(n: u8) -> IpAddr {
        [10, 9, 0, n].into()
    }

    fn peer(n: u8) -> PeerConfig {
        PeerConfig::new(&format!("n{n}"), address(n))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    /// Three nodes; the session with the first is up.
    fn watching() -> Liveness {
        let mut liveness = Liveness::default();
        liveness.configure([node(1), node(2), node(3)].iter(), &[peer(1)], at(0));
        liveness.heard(address(1), Session::Up, at(1));
        liveness
    }

    #[test]
    fn a_node_without_a_session_is_up() {
        let mut liveness = Liveness::default();
        liveness.configure([node(1)].iter(), &[], at(0));
        liveness.heard(address(1), Session::Lost, at(0));
        assert!(!liveness.expire(at(60)) && liveness.is_up(&node(1)));
    }

    #[test]
    fn a_session_decides_and_one_that_never_came_up_is_waited_for() {
        let mut liveness = Liveness::default();
        let nodes = [node(1), node(2), node(3)];
        // One was up before it was a node.
        liveness.heard(address(3), Session::Up, at(0));
        liveness.configure(nodes.iter(), &[peer(1), peer(2), peer(3)], at(0));
        liveness.heard(address(1), Session::Up, at(0));
        assert!(!liveness.expire(at(9)) && nodes.iter().all(|node| liveness.is_up(node)));
        assert!(liveness.expire(at(10)));
        assert_eq!(nodes.each_ref().map(|node| liveness.is_up(node)), [true, false, true]);
        liveness.heard(address(1), Session::Lost, at(10));
        liveness.heard(address(2), Session::Up, at(10));
        assert_eq!(nodes.each_ref().map(|node| liveness.is_up(node)), [false, true, true]);
        // Its session is gone: nobody says that it is down.
        liveness.configure(nodes.iter(), &[peer(2), peer(3)], at(11));
        assert!(liveness.is_up(&nodes[0]));
    }

    #[test]
    fn patience_counts_from_when_sessions_begin() {
        let mut liveness = Liveness::default();
        liveness.configure([node(1)].iter(), &[peer(1)], at(0));
        liveness.begin(at(8));
        assert!(!liveness.expire(at(17)) && liveness.expire(at(18)));
    }

    #[test]
    fn leave_is_no_loss() {
        let mut liveness = watching();
        liveness.heard(address(1), Session::Left, at(2));
        assert!(!liveness.expire(at(11)) && liveness.is_up(&node(1)));
        liveness.heard(address(1), Session::Up, at(11));
        assert!(!liveness.expire(at(30)) && liveness.is_up(&node(1)), "the next daemon is there");
        liveness.heard(address(1), Session::Left, at(40));
        assert!(liveness.expire(at(50)) && !liveness.is_up(&node(1)), "it does not come back");
    }
}
