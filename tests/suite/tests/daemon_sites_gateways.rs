//! One node of a site falls out of the way to the other site, and no BFD session tells. It is dead: nodes n1 (relay, all endpoints) and n2 are the
//! gateways of `dc-a`, clients come in at n3 (`dc-b`), of which half of the new connections are sent to one of the two. Or its own way to the other
//! site is cut, while that of the node where clients come in is not.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bascule_lab::sites::{init, issue, share};
use bascule_lab::{Direction, Dropper, Filter};
use bascule_suite::cluster::Cluster;
use bascule_suite::pair::{
    PATIENCE, VIP, WHOLE, answers, config, connect, live, secrets, serve, wait_page, wait_page_for, wait_services,
};
use serde_json::{Value, json};

/// The file of node `n`; n2 has no endpoint, so that nothing but its part of what comes from `dc-b` depends on it.
fn file(dir: &Path, n: usize) -> Value {
    let mut file = config(dir, n);
    for service in file["services"].as_array_mut().into_iter().flatten() {
        if let Some(endpoints) = service["endpoints"].as_array_mut() {
            endpoints.retain(|endpoint| endpoint["node"] != "n2");
        }
    }
    file
}

/// Both sites, with these files; clients come in at node `via`.
fn start(name: &str, file: fn(&Path, usize) -> Value, via: usize) -> Result<(Cluster, PathBuf)> {
    let mut cluster = Cluster::new(name, 3)?;
    let dir = cluster.lab.directory().to_owned();
    secrets(&dir)?;
    let authority = init(&dir.join("authority"))?;
    for n in [3, 1, 2] {
        issue(&authority, if n == 3 { "2" } else { "1" }, &format!("n{n}"), &dir.join(format!("pki-n{n}")))?;
        serve(&cluster.hosts[n - 1].netns, u8::try_from(n)?)?;
        cluster.start(n, &file(&dir, n))?;
    }
    cluster.client.tool("ip", &["route", "add", VIP, "via", &format!("10.9.0.{via}")])?;
    Ok((cluster, dir))
}

fn half(page: &Value) -> bool {
    (share(page, "shop", "dc-a") - 0.5).abs() < 0.01
}

fn silent(page: &Value) -> &Value {
    &page["sites"][0]["silentGateways"]
}

#[test]
fn a_gateway_that_probes_do_not_reach_is_sent_nothing_until_it_is_heard_again() -> Result<()> {
    let (mut cluster, dir) = start("gateways", file, 3)?;
    let whole = |page: &Value| half(page) && *silent(page) == json!([]);
    let before = wait_page_for(WHOLE, &mut cluster, 3, "both gateways, and half of the share", whole)?;
    ensure!(answers(&cluster.client, 40)? == [1, 3].into(), "both sites answer");

    cluster.daemon(2).process.sigkill()?;
    let off = cluster.hosts[1].port.cut(Direction::Both, Filter::All)?;
    let gone = wait_page(&mut cluster, 3, "a silent gateway", |page| *silent(page) == json!(["n2"]))?;
    ensure!(gone["sites"][0]["path"]["path"]["carriage"] == "up" && gone["sites"][0]["session"] == true, "{gone:#}");
    ensure!(half(&gone) && gone["services"][1]["tables"] == before["services"][1]["tables"], "{before:#} {gone:#}");
    // A quarter of them went by n2 before, and would get no answer there.
    ensure!(answers(&cluster.client, 80)? == [1, 3].into(), "its part goes by the other one");
    cluster.wait_metric(3, "bascule_sites_gateways_silent{site=\"dc-a\"}", |silent| silent == 1.0)?;
    let shown = cluster.daemon(3).ctl(&["sites"])?;
    ensure!(shown.contains("gateway n2 of dc-a is not reached by probes: nothing is sent to it"), "{shown}");

    off.heal()?;
    cluster.start(2, &file(&dir, 2))?;
    wait_page(&mut cluster, 3, "the gateway again", |page| *silent(page) == json!([]))?;
    ensure!(answers(&cluster.client, 40)? == [1, 3].into(), "both sites answer");
    let lines = cluster.daemon(3).process.log();
    let said = |what: &str| lines.lines().filter(|line| line.contains(what)).count();
    let (left, again) = (said("probes do not reach a gateway"), said("a gateway is sent its part again"));
    ensure!(left >= 1 && left == again, "left out {left} times, {again} times back: {lines}");
    cluster.daemon(2).process.sigterm()?;
    let status = cluster.daemon(2).process.wait(std::time::Duration::from_secs(20))?;
    ensure!(status.success(), "{status}");
    wait_page(&mut cluster, 3, "a gateway that stopped", |page| *silent(page) == json!(["n2"])).context("a stop")?;
    Ok(())
}

#[test]
fn a_node_without_a_way_to_the_other_site_ends_nothing_that_lives_there() -> Result<()> {
    let (mut cluster, _) = start("uplink", config, 1)?;
    // The rows that leave were of n1 and n2 before, which are asked for flows until the drain time is over.
    let half = |page: &Value| (share(page, "shop", "dc-b") - 0.5).abs() < 0.01;
    for n in [1, 2] {
        wait_page_for(WHOLE, &mut cluster, n, "half of the share", half)?;
    }
    ensure!(answers(&cluster.client, 60)? == [1, 2, 3].into(), "all three answer");

    let off = cluster.hosts[1].port.cut(Direction::Both, Filter::Peer(Ipv4Addr::new(10, 9, 0, 3)))?;
    wait_page(&mut cluster, 2, "a path that is down", |page| !up(page))?;
    // What comes to n1 as the last of a chain: n2 gave it back.
    let given_back = "bascule_forward_hops_total{nodes=\"3\"}";
    let before = cluster.daemon(1).metric(given_back).unwrap_or_default();
    let mut held = Vec::new();
    for n in 0..60 {
        held.push(connect(&cluster.client).with_context(|| format!("connection {n} while n2 does not reach dc-b"))?);
    }
    live(&mut held)?;
    let far = held.iter().filter(|(number, _)| *number == 3).count();
    ensure!(far >= 15, "{far} of 60 connections at the other site");
    // It was the home before of half of those.
    cluster.wait_metric(1, given_back, |packets| packets - before >= 5.0)?;
    let page = wait_page(&mut cluster, 1, "the path of the other node", up)?;
    ensure!(half(&page), "{page:#}");

    off.heal()?;
    wait_page(&mut cluster, 2, "the path again", up)?;
    live(&mut held)?;

    let far = held.into_iter().filter(|(number, _)| *number == 3).map(|(_, stream)| stream);
    cut_for_seconds_and_for_longer(&mut cluster, far.collect())
}

/// The path of a node to the other site is up.
fn up(page: &Value) -> bool {
    page["sites"][0]["path"]["path"]["carriage"] == "up"
}

/// The whole way is cut while clients send over these connections to the other site. For some seconds nobody tells them that their flows are gone,
/// for they are not.
fn cut_for_seconds_and_for_longer(cluster: &mut Cluster, mut far: Vec<TcpStream>) -> Result<()> {
    let mut ends = far.split_off(far.len() / 2);
    let cut = |cluster: &mut Cluster, streams: &mut [TcpStream]| -> Result<Dropper> {
        let off = cluster.hosts[2].port.cut(Direction::Both, Filter::All)?;
        wait_page(cluster, 1, "a way that is cut", |page| !up(page))?;
        streams.iter_mut().try_for_each(|stream| stream.write_all(&[77]))?;
        Ok(off)
    };
    let off = cut(cluster, &mut far)?;
    let shown = wait_services(cluster, 1, "its flows are held")?;
    let dropped = "bascule_forward_drops_total{reason=\"remote_miss\"}";
    cluster.wait_metric(1, dropped, |packets| packets >= f64::from(u8::try_from(far.len()).unwrap_or(u8::MAX)))?;
    off.heal()?;
    for (n, stream) in far.iter_mut().enumerate() {
        let mut back = [0];
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut back).with_context(|| format!("connection {n} over a cut of seconds; {shown}"))?;
    }
    wait_page(cluster, 1, "the way again", up)?;
    // Not for ever: clients of a site that does not come back learn it.
    let off = cut(cluster, &mut ends)?;
    for (n, stream) in ends.iter_mut().enumerate() {
        stream.set_read_timeout(Some(PATIENCE))?;
        let end = stream.read(&mut [0]);
        ensure!(end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "connection {n}: {end:?}");
    }
    off.heal()?;
    Ok(())
}
