//! `announce: both` with a real API server: the owner of a VIP alone answers ARP for it and tells the router of it, and so does the next one.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::wait_for;
use serde_json::json;

use crate::kube::{START, pods, service};
use crate::kube_allocator::{BGP_PEERS, Scene};
use crate::kube_bgp::{NODES, Routed, TOR, router};

impl Routed {
    /// The one node that has a VIP on its link.
    fn owner(&self, vip: IpAddr) -> Result<u8> {
        let has = |n: &u8| {
            let node = self.scene.kube.yard.node(*n);
            node.daemon.is_some() && node.netns.has_address("eth0", vip)
        };
        let found = wait_for(START, "one owner", || {
            let all: Vec<u8> = (1..=3).filter(has).collect();
            (all.len() == 1).then(|| all[0])
        });
        found.with_context(|| format!("{vip}\n{}", self.scene.kube.told()))
    }
}

#[test]
fn the_owner_alone_answers_arp_and_tells_routers() -> Result<()> {
    let mut scene = Scene::new("kboth")?;
    scene.kube.routes = Some(("both", NODES));
    let (one, two) = (scene.kube.yard.pod(1)?, scene.kube.yard.pod(2)?);
    let (tor, router) = router(&scene)?;
    // On no link of the router, and on one.
    scene.pool("far", "10.99.0.101", "10.99.0.109")?;
    scene.pool("near", "10.9.0.101", "10.9.0.109")?;
    for (name, pool, pod, n) in [("routed", "far", &one, 1), ("both", "near", &two, 2)] {
        scene.service(name, pool, None, json!({}))?;
        scene.slice(name, pod, n)?;
        scene.kube.add(service(name, n), pods(&[(pod, n)]));
    }
    scene.kube.start()?;
    let (routed, both) = (scene.address("routed")?, scene.address("both")?);
    let mut all = Routed { scene, router };
    let spec = json!({"address": tor, "remoteAs": TOR, "connectRetry": "1s", "holdTime": "9s"});
    all.must("BgpPeer", BGP_PEERS, "tor", &spec)?;

    let first = all.owner(routed)?;
    all.told(routed, &[first], |path| path.as_path == [NODES])?;
    all.scene.serves(routed, &one)?;
    let near = all.owner(both)?;
    all.told(both, &[near], |path| path.as_path == [NODES])?;
    all.scene.serves(both, &two)?;

    // The owner dies: the next one has the address and the route, and nobody else.
    all.scene.kube.yard.crew.daemon_mut(first.into()).process.sigkill()?;
    all.scene.kube.yard.crew.node_mut(first.into()).daemon = None;
    let next = all.owner(routed)?;
    ensure!(next != first, "n{first} is dead");
    all.told(routed, &[next], |_| true)?;
    all.scene.serves(routed, &one)?;
    let near = all.owner(both)?;
    all.told(both, &[near], |_| true)?;
    all.scene.serves(both, &two)
}
