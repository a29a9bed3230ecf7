//! Which BFD sessions there are: those with nodes of the data plane wait until it is decided whether this node forwards.
//!
//! To the other nodes a session that comes up says that packets for flows may be sent here again. While a node boots they would arrive
//! before the programs that take them, and be lost. A node whose data plane cannot be started does have sessions: it is there, and its
//! condition says what is wrong with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use bascule_core::bfd::config::PeerConfig;
use tokio::sync::{Mutex, watch};
use tracing::info;

use super::tasks::WorldSender;
use crate::config::Loaded;

/// The way of sessions into the loop.
#[derive(Clone)]
pub(super) struct Sessions {
    world: WorldSender,
    /// Held while the loop is told, so that it hears the newest word last.
    wanted: Arc<Mutex<Wanted>>,
}

#[derive(Default)]
struct Wanted {
    peers: Vec<PeerConfig>,
    /// Addresses of nodes of the data plane.
    nodes: BTreeSet<IpAddr>,
    decided: bool,
}

impl Wanted {
    fn take(&mut self, loaded: &Loaded) {
        self.peers.clone_from(&loaded.bfd);
        let nodes = loaded.forwarding.iter().flat_map(|forwarding| &forwarding.config.nodes);
        self.nodes = nodes.flat_map(|node| &node.addresses).copied().collect();
    }

    /// The sessions that there shall be now.
    fn now(&self) -> Vec<PeerConfig> {
        let held = |peer: &&PeerConfig| !self.decided && self.nodes.contains(&peer.remote);
        self.peers.iter().filter(|peer| !held(peer)).cloned().collect()
    }
}

impl Sessions {
    /// `decided`: nobody has to wait from the start.
    pub(super) fn new(world: WorldSender, decided: bool) -> Self {
        Self { world, wanted: Arc::new(Mutex::new(Wanted { decided, ..Wanted::default() })) }
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// When the loop has ended.
    pub(super) async fn config(&self, loaded: &Loaded) -> Result<()> {
        let mut wanted = self.wanted.lock().await;
        wanted.take(loaded);
        self.world.bfd(wanted.now()).await
    }

    /// Lets all sessions begin once it is decided; ends then.
    pub(super) async fn begin(self, mut decided: watch::Receiver<bool>) {
        // The room is gone with its sender: then nothing is sent here, either.
        let _decided = decided.wait_for(|decided| *decided).await.is_ok();
        let mut wanted = self.wanted.lock().await;
        let held = wanted.peers.len() - wanted.now().len();
        wanted.decided = true;
        if held > 0 {
            info!(sessions = held, "BFD with nodes of the data plane begins");
        }
        // Without a loop the process ends.
        let _ended = self.world.bfd(wanted.now()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_with_forwarding_nodes_wait_and_others_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("forward.key");
        std::fs::write(&key, format!("0:{}\nflow:{}\n", "aa".repeat(16), "bb".repeat(16))).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let text = "bfd: { peers: [{ address: 192.0.2.1 }, { address: 198.51.100.2 }] }\n\
             forwarding: { keyFile: forward.key, nodes: [{ name: n1, id: 1, addresses: [198.51.100.1] }, \
             { name: n2, id: 2, addresses: [198.51.100.2] }] }\n";
        let loaded = crate::config::parse(text, "bascule.yaml", dir.path(), "n1").unwrap();
        let mut wanted = Wanted::default();
        wanted.take(&loaded);
        let remotes = |wanted: &Wanted| wanted.now().iter().map(|peer| peer.remote).collect::<Vec<_>>();
        assert_eq!(remotes(&wanted), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        wanted.decided = true;
        assert_eq!(wanted.now(), loaded.bfd);
        // Without a data plane nobody waits.
        let text = "vips: [{ name: api, addresses: [198.51.100.100], interface: eth0, vrid: 51, nodes: [n1] }]\n\
             bfd: { peers: [{ address: 192.0.2.1 }] }\n";
        let plain = crate::config::parse(text, "b.yaml", dir.path(), "n1").unwrap();
        let mut wanted = Wanted::default();
        wanted.take(&plain);
        assert_eq!(wanted.now(), plain.bfd);
    }
}
