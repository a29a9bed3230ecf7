//! What a running daemon does to its BGP sessions: keeps their routes over a planned restart, keeps them through a change of password, ends
//! them when BFD fails and not before, gives up a neighbor that vanished without a word, and speaks over link-local addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::router::scripted::{Identity, NOTIFICATION, ScriptedPeer, ScriptedSession, UPDATE};
use bascule_lab::router::{
    BfdPeer, BfdTimers, Bird, Change, Config, Family, GracefulRestart, Kind, Neighbor, RouteWatch, Routed, Router,
    State, host,
};
use bascule_lab::{Lab, Stamp, sleep_until, wait_for};
use bascule_suite::cluster::SOON;
use serde_json::{Value, json};

const NODE: u32 = 65001;
const TOR: u32 = 65100;
/// Shortest hold time there is (s).
const HOLD: u16 = 3;
/// Longer than that, with its timer's jitter and a busy machine.
const HOLD_IS_OVER: Duration = Duration::from_secs(5);

fn vip() -> IpAddr {
    [10, 99, 0, 53].into()
}

fn vip6() -> IpAddr {
    IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, 0x53])
}

/// A node with one anycast VIP of each family and these neighbors.
fn config(neighbors: &Value) -> Value {
    json!({
        "node": "n1", "fence": "off",
        "bgp": { "asn": NODE, "routerId": "10.0.0.1", "drainTime": "0s", "neighbors": neighbors },
        "vips": [{ "name": "dns", "addresses": [vip(), vip6()], "announce": "bgp", "scope": "all" }],
    })
}

fn session(daemon: &Bascule) -> Result<Value> {
    let page: Value = serde_json::from_str(&daemon.get("/bgp")?.1)?;
    page["neighbors"].get(0).cloned().with_context(|| page.to_string())
}

fn wait_state(daemon: &Bascule, state: &str) -> Result<Value> {
    let found = wait_for(SOON, state, || session(daemon).ok().filter(|s| s["state"] == state));
    found.with_context(|| format!("{:?}\n{}", session(daemon), daemon.process.tail()))
}

fn scripted(peer: &ScriptedPeer, hold_time: u16) -> Result<ScriptedSession> {
    let (_, mut session) = peer.accept(SOON)?;
    session.establish(Identity { asn: TOR, id: Ipv4Addr::new(10, 0, 0, 101), four_octet: true, hold_time }, SOON)?;
    Ok(session)
}

/// The next message that is neither UPDATE nor KEEPALIVE, and within what time it came.
fn hear_the_end(session: &mut ScriptedSession, within: Duration) -> Result<Vec<u8>> {
    let end = Stamp::now() + within;
    loop {
        match session.hear(end.since(Stamp::now()))? {
            Some(heard) if heard.kind == UPDATE => {}
            Some(heard) if heard.kind == NOTIFICATION => return Ok(heard.body),
            other => bail!("{other:02x?} and not a NOTIFICATION"),
        }
    }
}

#[test]
fn a_planned_restart_loses_no_route() -> Result<()> {
    let lab = Lab::new("dbgp-restart")?;
    let net = Routed::build(&lab, 1, 1)?;
    let link = net.link(0, 0);
    let (near, far) = (link.node_address(Family::Ipv4), link.router_address(Family::Ipv4));
    let neighbor = Neighbor { passive: true, ..Neighbor::new(far, near, NODE) };
    let mut router = Config::new(TOR, link.router.0).neighbor(neighbor);
    router.graceful_restart = GracefulRestart::On(60);
    let router = Kind::Bird.start(&lab, &net.routers[0], &router)?;
    let watch = RouteWatch::start(&net.routers[0])?;
    let ours =
        json!([{ "name": "tor", "address": far, "remoteAs": TOR, "connectRetry": "1s", "gracefulRestart": "60s" }]);
    let mut daemon = Bascule::start_keeping_run(&lab, &net.nodes[0], &config(&ours))?;
    watch.wait(host(vip()), Change::Set, Stamp(0), SOON).with_context(|| daemon.process.tail())?;
    wait_state(&daemon, "established")?;

    let asked = Stamp::now();
    daemon.ctl(&["restart"])?;
    let ended = daemon.process.wait(SOON)?;
    ensure!(ended.success(), "{ended}\n{}", daemon.process.tail());
    ensure!(net.nodes[0].has_address("lo", vip()), "the address went with the daemon");
    ensure!(router.session(near)?.state != State::Established, "the session outlived the daemon");
    ensure!(router.route(host(vip()))?.is_some(), "the router dropped the route");
    drop(daemon);

    let daemon = Bascule::start_keeping_run(&lab, &net.nodes[0], &config(&ours))?;
    wait_state(&daemon, "established")?;
    let fresh = router.session(near)?.capabilities.graceful_restart.unwrap_or_default();
    ensure!(fresh.families == [(Family::Ipv4, true)], "forwarding was kept, and it says {fresh:?}");
    // Past its End-of-RIB, at which the router drops what it was not told again.
    let told = wait_for(SOON, "the route told anew", || {
        router
            .paths(host(vip()))
            .ok()
            .filter(|paths| paths.len() == 1 && session(&daemon).is_ok_and(|s| s["queue_depth"] == 0))
    })?;
    ensure!(told[0].next_hop == Some(near), "{told:?}");
    let gone = watch.wait(host(vip()), Change::Gone, asked, Duration::from_secs(1));
    ensure!(gone.is_err(), "the kernel lost the route: {gone:?}");
    ensure!(!watch.overrun(), "the kernel dropped notices of routes");

    // The same as a stop takes the route with it.
    daemon.process.sigterm()?;
    watch.wait(host(vip()), Change::Gone, asked, SOON)?;
    Ok(())
}

fn write_key(path: &Path, key: &str) -> Result<()> {
    // Never empty and never open, whatever the daemon's watch sees: written beside it and moved there.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, key)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    Ok(std::fs::rename(fresh, path)?)
}

#[test]
fn a_rotated_password_is_taken_by_the_session_that_stands() -> Result<()> {
    let lab = Lab::new("dbgp-rotate")?;
    let net = Routed::build(&lab, 1, 1)?;
    let link = net.link(0, 0);
    let (near, far) = (link.node_address(Family::Ipv4), link.router_address(Family::Ipv4));
    let keys = ["near", "far"].map(|end| lab.directory().join(format!("{end}.key")));
    let write = |key: &str| keys.iter().try_for_each(|path| write_key(path, key));
    write("first")?;
    let hold = format!("{HOLD}s");
    let neighbor = |address: IpAddr, asn: u32, mode: &str, key: &Path| {
        json!([{
            "name": "other", "address": address, "remoteAs": asn, "mode": mode, "holdTime": hold, "connectRetry": "1s",
            "passwordFile": key,
        }])
    };
    let dialling = config(&neighbor(far, TOR, "active", &keys[0]));
    let mut called = config(&neighbor(near, NODE, "passive", &keys[1]));
    called["bgp"]["asn"] = json!(TOR);
    called["bgp"]["routerId"] = json!("10.0.0.101");
    called["vips"][0]["addresses"] = json!(["10.99.1.53"]);
    let called = Bascule::start(&lab, &net.routers[0], &called)?;
    let dialling = Bascule::start(&lab, &net.nodes[0], &dialling)?;
    let since = |daemon: &Bascule| wait_state(daemon, "established").map(|s| s["since"].clone());
    let begun = (since(&dialling)?, since(&called)?);

    // One end after the other, as operators do; both within the hold time. Then one hold time passes with the new key alone.
    write("second")?;
    sleep_until(Stamp::now() + HOLD_IS_OVER);
    ensure!((since(&dialling)?, since(&called)?) == begun, "the session was reset:\n{}", dialling.process.tail());

    // That the key is really another one: what only one end has ends the session, and the right one brings it back.
    write_key(&keys[0], "third")?;
    let lost = wait_for(SOON, "the session to end", || session(&called).ok().filter(|s| s["state"] != "established"))?;
    ensure!(lost["last_error"].to_string().to_lowercase().contains("hold"), "{lost}");
    write_key(&keys[1], "third")?;
    wait_state(&called, "established")?;
    Ok(())
}

#[test]
fn bfd_down_is_cease_6_10_and_nothing_dials_before_it_is_up() -> Result<()> {
    let lab = Lab::new("dbgp-bfd")?;
    let net = Routed::build(&lab, 1, 1)?;
    let link = net.link(0, 0);
    let (near, far) = (link.node_address(Family::Ipv4), link.router_address(Family::Ipv4));
    // Slow, so that nothing but the kill is a failure on a busy machine.
    let timers = BfdTimers::symmetric(Duration::from_millis(300), 3);
    let peer = BfdPeer { address: near, local: far, multihop: false, timers };
    // BIRD speaks BFD only: the port of BGP is the script's.
    let bfd = Config::new(TOR, link.router.0).bfd(peer);
    let mut bird = Bird::start(&lab, &net.routers[0], &bfd)?;
    let tor = ScriptedPeer::listen(&net.routers[0])?;
    let ours = json!([{
        "name": "tor", "address": far, "remoteAs": TOR, "connectRetry": "1s",
        "bfd": {},
    }]);
    let daemon = Bascule::start(&lab, &net.nodes[0], &config(&ours))?;
    let mut held = scripted(&tor, 0)?;
    let up = |daemon: &Bascule| {
        let is_up = || daemon.get("/bfd").is_ok_and(|(_, body)| body.contains("\"state\":\"up\"")).then_some(());
        wait_for(SOON, "BFD to be up", is_up).with_context(|| daemon.process.tail())
    };
    up(&daemon)?;

    bird.processes().first_mut().context("bird")?.sigkill()?;
    let said = hear_the_end(&mut held, SOON).with_context(|| daemon.process.tail())?;
    // Cease, BFD Down (RFC 9384); inside a Hard Reset only where RFC 8538 was negotiated.
    ensure!(said.starts_with(&[6, 10]), "{said:?}");
    drop(held);
    // A router that takes TCP connections and is not heard by BFD: it is not dialled, however often the retry timer comes.
    ensure!(tor.accept(Duration::from_secs(3)).is_err(), "dialled while BFD is down");
    let waiting = session(&daemon)?;
    ensure!(waiting["state"] == "idle" && waiting["waiting"].to_string().contains("BFD is down"), "{waiting}");

    let _bird = Bird::start(&lab, &net.routers[0], &bfd)?;
    up(&daemon)?;
    let mut again = scripted(&tor, 0).with_context(|| daemon.process.tail())?;
    let told = again.hear(SOON)?;
    ensure!(told.is_some_and(|heard| heard.kind == UPDATE), "the routes were not told again");
    Ok(())
}

#[test]
fn a_neighbor_that_vanished_is_given_up_after_the_hold_time_and_dialled_again() -> Result<()> {
    let lab = Lab::new("dbgp-vanish")?;
    let net = Routed::build(&lab, 1, 1)?;
    let far = net.link(0, 0).router_address(Family::Ipv4);
    let tor = ScriptedPeer::listen(&net.routers[0])?;
    let ours = json!([{ "name": "tor", "address": far, "remoteAs": TOR, "connectRetry": "1s", "holdTime": format!("{HOLD}s") }]);
    let daemon = Bascule::start(&lab, &net.nodes[0], &config(&ours))?;
    let mut first = scripted(&tor, HOLD)?;
    wait_state(&daemon, "established")?;
    first.keepalive()?;

    // Its end of the connection stays open, and no segment says so: half-open TCP (RFC 9293 section 3.5.1).
    let cut = net.cut(0, &[0])?;
    let lost =
        wait_for(HOLD_IS_OVER, "the hold timer", || session(&daemon).ok().filter(|s| s["state"] != "established"))?;
    ensure!(lost["last_error"].to_string().to_lowercase().contains("hold"), "{lost}");
    drop(cut);
    let mut second = scripted(&tor, HOLD).with_context(|| daemon.process.tail())?;
    wait_state(&daemon, "established")?;
    ensure!(second.hear(SOON)?.is_some_and(|heard| heard.kind == UPDATE), "the routes were not told again");
    // The old connection is dead on both ends: what its end still sends changes nothing.
    let _ = first.keepalive();
    ensure!(session(&daemon)?["state"] == "established");
    Ok(())
}

#[test]
fn link_local_neighbors_exchange_ipv6_routes() -> Result<()> {
    let lab = Lab::new("dbgp-scope")?;
    let net = Routed::build(&lab, 1, 1)?;
    let link = net.link(0, 0);
    let on = |netns: &bascule_lab::Netns, device: &str| {
        let scoped = |net: &ipnet::IpNet| matches!(net.addr(), IpAddr::V6(a) if a.is_unicast_link_local());
        wait_for(SOON, "a link-local address", || Some(netns.addresses(device).ok()?.into_iter().find(scoped)?.addr()))
    };
    let (near, far) = (on(&net.nodes[0], &link.node_device)?, on(&net.routers[0], &link.router_device)?);
    let neighbor =
        Neighbor { passive: true, interface: Some(link.router_device.clone()), ..Neighbor::new(far, near, NODE) };
    let router = Kind::Bird.start(&lab, &net.routers[0], &Config::new(TOR, link.router.0).neighbor(neighbor))?;
    let global = link.node_address(Family::Ipv6);
    let ours = json!([{
        "name": "tor", "address": far, "interface": link.node_device, "remoteAs": TOR, "connectRetry": "1s",
        // A link-local address is no next hop for whoever learns the route behind the router (RFC 2545 section 2).
        "nextHop6": global,
    }]);
    let daemon = Bascule::start(&lab, &net.nodes[0], &config(&ours))?;
    wait_state(&daemon, "established").with_context(|| router.log())?;
    let paths =
        wait_for(SOON, "the VIP at the router", || router.paths(host(vip6())).ok().filter(|paths| !paths.is_empty()));
    let paths = paths.with_context(|| format!("{}\n{}", router.log(), daemon.process.tail()))?;
    ensure!(paths[0].as_path == [NODE] && paths[0].next_hop == Some(global), "{paths:?}");
    ensure!(router.route(host(vip6()))?.is_some(), "no route in the router's kernel");
    Ok(())
}
