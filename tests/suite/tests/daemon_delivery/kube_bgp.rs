//! BgpPeers and BgpAnnouncements of a real API server: which nodes tell the router of which VIPs, and how, by the router's own word and by a
//! client behind it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::router::{Config, Kind, Neighbor, Path, Router, host};
use bascule_lab::wait_for;
use serde_json::{Value, json};

use crate::kube::{START, pods, service};
use crate::kube_allocator::{BGP_ANNOUNCEMENTS, BGP_PEERS, Scene};
use crate::talk::Talk;
use crate::yard::{PORT, ip};

/// The nodes' AS and the router's.
pub(crate) const NODES: u32 = 65001;
pub(crate) const TOR: u16 = 65100;

/// The scene and the router's BGP.
pub(crate) struct Routed {
    pub(crate) scene: Scene,
    pub(crate) router: Box<dyn Router>,
}

/// BIRD on the router of the yard, which waits for all nodes; and its address.
pub(crate) fn router(scene: &Scene) -> Result<(IpAddr, Box<dyn Router>)> {
    let tor: IpAddr = [10, 9, 0, 254].into();
    let config = (1..=3).fold(Config::new(TOR.into(), [10, 9, 0, 254].into()), |config, n| {
        config.neighbor(Neighbor { passive: true, ..Neighbor::new(tor, [10, 9, 0, n].into(), NODES) })
    });
    Ok((tor, Kind::Bird.start(scene.kube.yard.crew.lab(), &scene.kube.yard.router, &config)?))
}

impl Routed {
    fn put(&self, kind: &str, path: &str, name: &str, spec: &Value) -> Result<(u16, Value)> {
        let object =
            json!({"apiVersion": "bascule.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        Ok(self.scene.api.request("POST", path, Some(&object))?)
    }

    pub(crate) fn must(&self, kind: &str, path: &str, name: &str, spec: &Value) -> Result<()> {
        let (status, answer) = self.put(kind, path, name, spec)?;
        ensure!(status == 201, "{kind} {name}: {status} {answer}");
        Ok(())
    }

    fn change(&self, path: &str, name: &str, spec: &Value) -> Result<()> {
        self.scene.api.must("PATCH", &format!("{path}/{name}"), Some(&json!({"spec": spec})))?;
        Ok(())
    }

    /// Waits until the router has paths of a VIP from these nodes and no others, each as `wanted`.
    pub(crate) fn told(&self, vip: IpAddr, nodes: &[u8], wanted: impl Fn(&Path) -> bool) -> Result<()> {
        let from: BTreeSet<IpAddr> = nodes.iter().map(|n| [10, 9, 0, *n].into()).collect();
        let found = wait_for(START, "the router's paths", || {
            let paths = self.router.paths(host(vip)).ok()?;
            let have: BTreeSet<IpAddr> = paths.iter().filter_map(|path| path.neighbor).collect();
            (have == from && paths.iter().all(&wanted)).then_some(())
        });
        found.with_context(|| {
            format!("{vip} from {nodes:?}; {:?}\n{}", self.router.paths(host(vip)), self.scene.kube.told())
        })
    }

    /// The client has no way to it.
    fn unreachable(&self, vip: IpAddr) -> Result<()> {
        self.told(vip, &[], |_| true)?;
        let client = &self.scene.kube.yard.client;
        let silent = wait_for(START, "no way to the VIP", || Talk::open(client, vip, PORT).is_err().then_some(()));
        silent.with_context(|| format!("{vip}\n{}", self.scene.kube.told()))
    }

    fn says(&self, n: u8, words: &str) -> Result<()> {
        let mut last = String::new();
        let said = wait_for(START, "the status to say it", || {
            last = self.scene.kube.yard.daemon(n).ctl(&["status"]).ok()?;
            last.contains(words).then_some(())
        });
        said.with_context(|| format!("{words}\n{last}"))
    }
}

#[test]
fn peers_and_announcements_say_which_routers_are_told_of_which_vips_and_how() -> Result<()> {
    let mut scene = Scene::new("kbgp")?;
    scene.kube.routes = Some(("bgp", NODES));
    let (one, two) = (scene.kube.yard.pod(1)?, scene.kube.yard.pod(2)?);
    let (tor, router) = router(&scene)?;
    scene.pool("edge", "10.99.0.101", "10.99.0.109")?;
    scene.pool("inner", "10.99.0.111", "10.99.0.119")?;
    for n in [2, 3] {
        let rack = json!({"metadata": {"labels": {"rack": "a"}}});
        scene.api.must("PATCH", &format!("/api/v1/nodes/n{n}"), Some(&rack))?;
    }
    for (name, pool, pod, n) in [("web", "edge", &one, 1), ("plain", "inner", &two, 2)] {
        scene.service(name, pool, None, json!({}))?;
        scene.slice(name, pod, n)?;
        scene.kube.add(service(name, n), pods(&[(pod, n)]));
    }
    scene.kube.run()?;
    let (web, plain) = (scene.address("web")?, scene.address("plain")?);
    let mut all = Routed { scene, router };
    // A configuration file without neighbors: nobody is told.
    all.unreachable(web)?;

    // A router of two nodes; it is told of everything.
    let rack = json!({"matchLabels": {"rack": "a"}});
    let spec = json!({"address": tor, "remoteAs": TOR, "connectRetry": "1s", "holdTime": "9s", "nodeSelector": &rack});
    all.must("BgpPeer", BGP_PEERS, "tor", &spec)?;
    all.told(web, &[2, 3], |path| path.as_path == [NODES] && path.communities.is_empty())?;
    all.told(plain, &[2, 3], |_| true)?;
    all.scene.serves(web, &one)?;
    all.scene.serves(plain, &two)?;

    // One pool, with a community; what nothing selects is told to nobody.
    let spec = json!({"pools": ["edge"], "peers": ["tor"], "communities": ["65001:7"], "med": 5});
    all.must("BgpAnnouncement", BGP_ANNOUNCEMENTS, "edge", &spec)?;
    let marked = |path: &Path| path.communities == [(65001, 7)] && path.med == Some(5);
    all.told(web, &[2, 3], marked)?;
    all.unreachable(plain)?;
    all.says(1, "1 not_announced")?;
    all.scene.serves(web, &one)?;
    // Only one of the nodes says so; the other tells nothing of it.
    all.change(BGP_ANNOUNCEMENTS, "edge", &json!({"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n3"}}}))?;
    all.told(web, &[], |_| true)?;
    all.scene.api.must(
        "PATCH",
        "/api/v1/nodes/n3",
        Some(&json!({"metadata": {"labels": {"kubernetes.io/hostname": "n3"}}})),
    )?;
    all.told(web, &[3], marked)?;
    all.scene.serves(web, &one)?;
    all.change(BGP_ANNOUNCEMENTS, "edge", &json!({"nodeSelector": null}))?;
    all.told(web, &[2, 3], marked)?;

    // What makes no sense: by the definition, and by the rules of the file; what was said before holds.
    for (kind, path, wrong) in [
        ("BgpPeer", BGP_PEERS, json!({"address": "tor", "remoteAs": 1})),
        ("BgpPeer", BGP_PEERS, json!({"address": tor})),
        ("BgpPeer", BGP_PEERS, json!({"address": tor, "remoteAs": "ours"})),
        ("BgpPeer", BGP_PEERS, json!({"address": tor, "remoteAs": 23456})),
        ("BgpPeer", BGP_PEERS, json!({"address": tor, "remoteAs": 1, "multihop": 2, "ttlSecurity": 1})),
        ("BgpPeer", BGP_PEERS, json!({"address": tor, "remoteAs": 1, "passwordFile": "/etc/shadow"})),
        ("BgpPeer", BGP_PEERS, json!({"address": tor, "remoteAs": 1, "passwordFile": "a/../../b"})),
        ("BgpPeer", BGP_PEERS, json!({"address": tor, "remoteAs": 1, "holdTime": "9"})),
        ("BgpAnnouncement", BGP_ANNOUNCEMENTS, json!({"prepend": 11})),
        ("BgpAnnouncement", BGP_ANNOUNCEMENTS, json!({"localPref": -1})),
    ] {
        let (status, answer) = all.put(kind, path, "wrong", &wrong)?;
        ensure!(status == 422, "{wrong}: {status} {answer}");
    }
    all.change(BGP_ANNOUNCEMENTS, "edge", &json!({"communities": ["65001"]}))?;
    all.says(2, "BgpAnnouncement edge is refused: spec.communities[0]: 65001 is not a community")?;
    all.must("BgpPeer", BGP_PEERS, "twice", &json!({"address": tor, "remoteAs": TOR, "nodeSelector": rack}))?;
    all.says(2, "BgpPeer twice is refused: spec.address: 10.9.0.254 is already that of tor")?;
    all.told(web, &[2, 3], marked)?;
    all.scene.serves(web, &one)?;
    all.scene.api.must("DELETE", &format!("{BGP_PEERS}/twice"), None)?;

    // A start without an API server tells the same.
    let kept = all.scene.kube.yard.crew.lab().directory().join("kept-2.json");
    wait_for(START, "peer and announcement to be kept", || {
        let (intent, _) = bascule::intent::file::read(&kept).ok()??;
        // What is kept may be a second old: the last change of the announcement is the one that makes no sense.
        let rules = intent.rules;
        (rules.peers.len() == 1 && rules.wrong.iter().any(|wrong| wrong.name == "edge" && wrong.kept)).then_some(())
    })?;
    let _down = ip(&all.scene.host, "link set eth0 down")?;
    all.scene.kube.yard.crew.daemon_mut(2).process.sigkill()?;
    all.scene.kube.yard.crew.node_mut(2).daemon = None;
    all.told(web, &[3], marked)?;
    all.scene.kube.start_again(2)?;
    all.told(web, &[2, 3], marked)?;
    all.unreachable(plain)?;
    all.scene.serves(web, &one)?;

    // Without the announcement everything is told again, and without the peer nothing is.
    let _up = ip(&all.scene.host, "link set eth0 up")?;
    all.scene.api.must("DELETE", &format!("{BGP_ANNOUNCEMENTS}/edge"), None)?;
    all.told(plain, &[2, 3], |path| path.communities.is_empty())?;
    all.scene.api.must("DELETE", &format!("{BGP_PEERS}/tor"), None)?;
    all.unreachable(web)?;
    all.unreachable(plain)
}
