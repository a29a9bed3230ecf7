//! The daemon on a Lease of a real API server, with the role that is shipped: who answers for the VIP through every fault of its owner, of
//! the way to the API and of the API itself, beside a VIP that VRRP elects.

use std::time::Duration;

use anyhow::{Result, ensure};
use bascule_lab::bascule::Bascule;
use bascule_lab::etcd::Data;
use bascule_lab::leased::{Fault, GROUP, LEASE, Leased, PATIENCE, Store, VIP, VRRP_GROUP};
use bascule_lab::{Stamp, sleep_until, wait_for};
use bascule_suite::etcd::Scene;
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

/// Writes the Lease as client-go of kube-vip does: the bare name of the node, and no annotation.
fn kube_vip(leased: &Leased, holder: &str, renewal: u32) -> Result<()> {
    let mut lease = leased.api.must("GET", LEASE, None)?;
    lease["spec"] = json!({"holderIdentity": holder, "leaseDurationSeconds": 3, "leaseTransitions": 7,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": format!("2026-01-01T00:00:{renewal:02}.000000Z")});
    lease["metadata"]["annotations"] = json!({});
    leased.api.must("PUT", LEASE, Some(&lease))?;
    Ok(())
}

#[test]
fn one_owner_answers_through_every_fault_of_the_owner() -> Result<()> {
    let mut leased = Leased::new("lease-faults")?;
    leased.start(0)?;
    leased.start(1)?;
    let bound = leased.bound()?;
    let owner = leased.owner()?;
    let mac = leased.nodes[owner].port.mac();
    let lease = leased.api.must("GET", LEASE, None)?;
    ensure!(lease["spec"]["holderIdentity"] == format!("n{}_bascule", owner + 1), "{lease}");
    wait_for(PATIENCE, "the owner to answer", || (leased.answers(mac, Stamp(0)) > 10).then_some(()))?;
    ensure!(leased.answers(leased.nodes[1 - owner].port.mac(), Stamp(0)) == 0, "the other node is silent");
    let status = leased.daemon(owner).ctl(&["status"])?;
    ensure!(status.contains("kube-system/plndr-cp-lock") && status.contains("reachable"), "{status}");
    let metrics = leased.daemon(owner).get("/metrics")?.1;
    ensure!(metrics.contains(r#"bascule_lease_condition{condition="reachable",group="cp"} 1"#), "{metrics}");

    for fault in Fault::ALL {
        let outcome = leased.strike(fault)?;
        println!(
            "{}: {:?} (bound {bound:?}), silent for {:?} before",
            fault.as_str(),
            outcome.takeover,
            outcome.silence
        );
        ensure!(outcome.overlap == 0 && outcome.adverts == 0, "{}: {outcome:?}", fault.as_str());
        ensure!(outcome.takeover <= bound, "{}: {outcome:?} is later than {bound:?}", fault.as_str());
        if fault == Fault::Stop {
            ensure!(outcome.takeover < SECOND * 2, "{outcome:?}: released, and not run out");
        }
    }
    // A drain is the way to give it away; nobody can be named.
    let owner = leased.owner()?;
    let refused =
        leased.daemon(owner).ctl(&["move", GROUP, "--to", "n9"]).expect_err("nobody can be named").to_string();
    ensure!(refused.contains("cp is elected by a lease"), "{refused}");
    leased.daemon(owner).ctl(&["drain"])?;
    leased.daemon(1 - owner).wait_role(SECOND * 20, GROUP, "active")?;
    leased.daemon(owner).ctl(&["drain", "--off"])?;
    leased.follows(owner)?;
    Ok(leased.clean()?)
}

#[test]
fn without_the_api_the_lease_ends_and_vrrp_does_not_notice() -> Result<()> {
    let mut leased = Leased::new("lease-api")?;
    // kube-vip runs on n1 too, and holds the Lease under the node's bare name.
    kube_vip(&leased, "n1", 0)?;
    leased.start(0)?;
    leased.start(1)?;
    for index in 0..2 {
        let daemon = leased.daemon(index);
        wait_for(PATIENCE, "the holder to be seen", || {
            (daemon.group(GROUP)?["lease"]["holder"] == "n1").then_some(())
        })?;
    }
    let mut renewed = Stamp::now();
    for renewal in 1..=12 {
        renewed = Stamp::now();
        kube_vip(&leased, "n1", renewal)?;
        sleep_until(renewed + SECOND / 2);
    }
    let silent = leased.nodes.iter().all(|node| leased.answers(node.port.mac(), Stamp(0)) == 0);
    ensure!(silent, "kube-vip on the same node owns, and nobody of ours");
    // It dies: its lease runs out as anybody's.
    let owner = leased.owner()?;
    let announced = || leased.sniffer.first_announcement(VIP, renewed, |_| true);
    let first = wait_for(PATIENCE, "the owner to announce", announced)?;
    ensure!(
        first.at.since(renewed) >= SECOND * 3,
        "{:?} after the last renewal of a lease of 3 s",
        first.at.since(renewed)
    );

    let roles = |leased: &mut Leased| -> Vec<_> {
        let seen =
            |d: &bascule_lab::bascule::Bascule| d.group(VRRP_GROUP).map(|g| (g["role"].clone(), g["term"].clone()));
        (0..2).map(|index| seen(leased.daemon(index))).collect()
    };
    // Whoever was up first: nobody preempts.
    let before = wait_for(PATIENCE, "one owner and one Backup by VRRP", || {
        let found = roles(&mut leased);
        let of = |role: &str| found.iter().flatten().filter(|(seen, _)| seen == role).count();
        (of("active") == 1 && of("backup") == 1).then_some(found)
    })?;

    // The API is away for everybody: the addresses go after the hold of 2 s, and nobody takes them.
    leased.api.server.stop();
    let frozen = Stamp::now();
    leased.daemon(owner).wait_role(PATIENCE, GROUP, "backup")?;
    let netns = leased.nodes[owner].netns.clone();
    wait_for(PATIENCE, "the addresses to go", || (!netns.has_address("eth0", VIP)).then_some(()))?;
    let gone = Stamp::now();
    sleep_until(gone + SECOND * 4);
    // Every renewal that counts was sent before; the margin is that of the wire (ADR 0009).
    let closed = frozen + SECOND * 2 + SECOND / 10;
    let quiet = leased.nodes.iter().map(|node| leased.answers(node.port.mac(), closed)).sum::<usize>();
    ensure!(quiet == 0, "{quiet} answers while nobody can own");
    ensure!(roles(&mut leased) == before, "an API outage never moves a VIP that VRRP elects");
    let status = leased.daemon(owner).ctl(&["status"])?;
    ensure!(status.contains("unreachable"), "{status}");
    leased.api.server.cont();
    let owner = leased.owner()?;
    let mac = leased.nodes[owner].port.mac();
    wait_for(PATIENCE, "the VIP to be back", || (leased.answers(mac, gone) > 10).then_some(()))?;
    ensure!(roles(&mut leased) == before, "nor does its return");
    Ok(leased.clean()?)
}

#[test]
fn one_owner_answers_when_the_owner_on_etcd_is_frozen_or_cut_off() -> Result<()> {
    let mut leased = Leased::on("lease-on-etcd", Store::Etcd)?;
    leased.start(0)?;
    leased.start(1)?;
    let bound = leased.bound()?;
    for fault in [Fault::Freeze, Fault::Partition] {
        let outcome = leased.strike(fault)?;
        ensure!(outcome.overlap == 0 && outcome.adverts == 0, "{}: {outcome:?}", fault.as_str());
        ensure!(outcome.takeover <= bound, "{}: {outcome:?} is later than {bound:?}", fault.as_str());
    }
    Ok(leased.clean()?)
}

#[test]
fn a_vip_on_etcd_follows_a_dead_owner_and_a_released_lease() -> Result<()> {
    let scene = Scene::new("lease-etcd", 1, 2, Data::Memory)?;
    let files = scene.user("node", "node")?;
    let endpoints: Vec<String> = scene.endpoints.iter().map(ToString::to_string).collect();
    let start = |n: usize| {
        let config = json!({
            "node": format!("n{}", n + 1),
            "etcd": {"endpoints": endpoints, "caFile": files.ca, "certFile": files.certificate, "keyFile": files.key, "ttl": "5s"},
            "vips": [{"name": GROUP, "addresses": [VIP], "elector": "etcd", "lease": {"name": "api"}}],
        });
        Bascule::start(&scene.lab, &scene.nodes[n].0, &config)
    };
    let mut daemons = [start(0)?, start(1)?];
    let owner = |daemons: &[Bascule; 2]| {
        wait_for(PATIENCE, "an owner", || daemons.iter().position(|d| d.role(GROUP).as_deref() == Some("active")))
    };
    let first = owner(&daemons)?;
    let lease = daemons[first].group(GROUP).expect("a group")["lease"].clone();
    ensure!(lease["store"] == "etcd" && lease["name"] == "/bascule/lease/kube-system/api", "{lease}");
    let named = |n: usize, lease: &serde_json::Value| {
        lease["holder"].as_str().is_some_and(|holder| holder.starts_with(&format!("n{}_bascule_", n + 1)))
    };
    let holder = wait_for(PATIENCE, "the holder to be known", || {
        let lease = daemons[1 - first].group(GROUP)?["lease"].clone();
        named(first, &lease).then_some(())
    });
    holder?;

    daemons[first].process.sigkill()?;
    daemons[1 - first].wait_role(PATIENCE, GROUP, "active")?;
    daemons[first] = start(first)?;
    daemons[first].wait_role(PATIENCE, GROUP, "backup")?;
    daemons[1 - first].process.sigterm()?;
    daemons[first].wait_role(PATIENCE, GROUP, "active")?;
    let ended = daemons[1 - first].process.wait(PATIENCE)?;
    ensure!(ended.success(), "{ended}");
    daemons[first].process.sigterm()?;
    let ended = daemons[first].process.wait(PATIENCE)?;
    ensure!(ended.success(), "{ended}");
    Ok(())
}
