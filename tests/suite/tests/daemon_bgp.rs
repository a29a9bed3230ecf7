//! A daemon and a real router: an anycast VIP appears, follows its gate, survives a reload, drains and leaves. The router's own command
//! line is the judge.

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::{Config, Family, Kind, Neighbor, Path, Routed, Router, State, host};
use bascule_lab::{Lab, wait_for};
use bascule_suite::cluster::SOON;
use serde_json::{Value, json};

/// GRACEFUL_SHUTDOWN (RFC 8326).
const GSHUT: (u16, u16) = (0xffff, 0);
/// Long enough to be seen by a router that is asked again and again.
const DRAIN: Duration = Duration::from_secs(2);

struct Scene {
    lab: Lab,
    net: Routed,
    router: Box<dyn Router>,
    daemon: Bascule,
    /// The service that the gate asks; dropped, it refuses.
    service: Option<TcpListener>,
    node: IpAddr,
}

fn dns() -> IpAddr {
    [10, 99, 0, 53].into()
}

fn web() -> IpAddr {
    [10, 99, 0, 80].into()
}

fn config(router: IpAddr, more: bool) -> Value {
    let mut vips =
        vec![json!({ "name": "dns", "addresses": [dns()], "announce": "bgp", "scope": "all", "gates": ["local"] })];
    if more {
        vips.push(json!({ "name": "web", "addresses": [web()], "announce": "bgp", "scope": "all" }));
    }
    json!({
        "node": "n1",
        "fence": "off",
        "gates": [{
            "name": "local", "tcp": { "address": "127.0.0.1:5353" }, "interval": "200ms", "timeout": "100ms", "rise": 1, "fall": 1,
        }],
        "bgp": {
            "asn": 65001,
            "drainTime": format!("{}ms", DRAIN.as_millis()),
            "neighbors": [{
                "name": "tor", "address": router, "remoteAs": 65100, "connectRetry": "1s", "holdTime": "9s",
                "export": { "communities": ["65001:100"] },
            }],
        },
        "vips": vips,
    })
}

impl Scene {
    fn new(name: &str, kind: Kind) -> Result<Self> {
        let lab = Lab::new(name)?;
        let net = Routed::build(&lab, 1, 1)?;
        let link = net.link(0, 0).clone();
        let (node, tor) = (link.node_address(Family::Ipv4), link.router_address(Family::Ipv4));
        let ours = Neighbor { passive: true, graceful_shutdown: true, ..Neighbor::new(tor, node, 65001) };
        let router = kind.start(&lab, &net.routers[0], &Config::new(65100, link.router.0).neighbor(ours))?;
        let daemon = Bascule::start(&lab, &net.nodes[0], &config(tor, false))?;
        let mut scene = Self { lab, net, router, daemon, service: None, node };
        scene.serve()?;
        Ok(scene)
    }

    fn tor(&self) -> IpAddr {
        self.net.link(0, 0).router_address(Family::Ipv4)
    }

    /// Lets the gate open. Nobody accepts: the kernel answers for the first 128 probes, which is longer than a scene lasts.
    fn serve(&mut self) -> Result<()> {
        self.service = Some(self.net.nodes[0].run(|| TcpListener::bind("127.0.0.1:5353"))?);
        Ok(())
    }

    fn paths(&self, vip: IpAddr) -> Result<Vec<Path>> {
        Ok(self.router.paths(host(vip))?)
    }

    /// Waits until the router's paths of a VIP are as wanted.
    fn wait(&self, what: &str, vip: IpAddr, wanted: impl Fn(&[Path]) -> bool) -> Result<Vec<Path>> {
        let found = wait_for(SOON, what, || self.paths(vip).ok().filter(|paths| wanted(paths)));
        found.with_context(|| format!("{what}; {:?}; the daemon:\n{}", self.paths(vip), self.daemon.process.tail()))
    }

    fn wait_announced(&self, what: &str, vip: IpAddr) -> Result<Vec<Path>> {
        self.wait(what, vip, |paths| paths.iter().any(|p| !p.communities.contains(&GSHUT)))
    }

    fn wait_gone(&self, what: &str, vip: IpAddr) -> Result<()> {
        self.wait(what, vip, <[Path]>::is_empty).map(|_| ())
    }

    /// Since when the session is in its state, by our clock.
    fn since(&self) -> Result<Value> {
        let (_, body) = self.daemon.get("/bgp")?;
        let page: Value = serde_json::from_str(&body)?;
        ensure!(page["neighbors"][0]["state"] == "established", "{page}");
        Ok(page["neighbors"][0]["since"].clone())
    }
}

fn life_of_a_route(name: &str, kind: Kind) -> Result<()> {
    let mut scene = Scene::new(name, kind)?;

    let paths = scene.wait_announced("the VIP at the router", dns())?;
    ensure!(paths[0].next_hop == Some(scene.node) && paths[0].as_path == [65001], "{paths:?}");
    ensure!(paths[0].communities == [(65001, 100)], "{paths:?}");
    ensure!(scene.router.session(scene.node)?.state == State::Established);
    let begun = scene.since()?;
    let shown = scene.daemon.ctl(&["bgp"])?;
    ensure!(shown.contains("tor") && shown.contains("established"), "{shown}");
    let routes = scene.daemon.ctl(&["bgp", "routes", "tor"])?;
    ensure!(routes.contains("10.99.0.53/32") && routes.contains("65001:100"), "{routes}");
    let status = scene.daemon.ctl(&["status"])?;
    ensure!(status.contains("1 of 1 neighbors up") && status.contains("announce"), "{status}");
    ensure!(scene.daemon.metric("bascule_route_wanted{group=\"dns\",vip=\"10.99.0.53\"}") == Some(1.0));

    // A reload of something else: the session has the age it had.
    scene.daemon.rewrite(&config(scene.tor(), true))?;
    scene.wait_announced("the second VIP", web())?;
    ensure!(scene.since()? == begun, "the session was reset by a reload");

    // The gate falls and rises.
    scene.service = None;
    scene.wait_gone("the VIP withdrawn by its gate", dns())?;
    ensure!(!scene.paths(web())?.is_empty(), "a VIP without that gate stays");
    scene.serve()?;
    scene.wait_announced("the VIP back with its gate", dns())?;
    ensure!(scene.since()? == begun);

    // An address that somebody removes is put back.
    scene.net.nodes[0].delete_address("lo", dns())?;
    wait_for(SOON, "the address to be restored", || {
        scene.daemon.metric("bascule_address_restored_total{group=\"dns\"}").filter(|count| *count >= 1.0)
    })?;

    // Drained: asked away, then withdrawn; the session stays.
    scene.daemon.ctl(&["drain"])?;
    scene
        .wait("GRACEFUL_SHUTDOWN at the router", dns(), |paths| paths.iter().any(|p| p.communities.contains(&GSHUT)))?;
    scene.wait_gone("the VIP withdrawn by the drain", dns())?;
    ensure!(scene.since()? == begun);
    scene.daemon.ctl(&["drain", "--off"])?;
    scene.wait_announced("the VIP back after the drain", dns())?;

    // Told to stop: the same, and then the session ends.
    scene.daemon.process.sigterm()?;
    scene.wait("GRACEFUL_SHUTDOWN on the stop", dns(), |paths| paths.iter().any(|p| p.communities.contains(&GSHUT)))?;
    let ended = scene.daemon.process.wait(DRAIN + Duration::from_secs(6))?;
    ensure!(ended.success(), "{ended}\n{}", scene.daemon.process.tail());
    scene.wait_gone("the VIP gone with the daemon", dns())?;
    ensure!(!scene.net.nodes[0].has_address("lo", dns()), "an address is left behind");
    drop(scene.lab);
    Ok(())
}

#[test]
fn the_life_of_a_route_as_bird_sees_it() -> Result<()> {
    life_of_a_route("dbgp-bird", Kind::Bird)
}

#[test]
fn the_life_of_a_route_as_frr_sees_it() -> Result<()> {
    life_of_a_route("dbgp-frr", Kind::Frr)
}
