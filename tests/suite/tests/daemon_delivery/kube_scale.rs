//! Fifty Services in one go, and the death of a node: what `cargo xtask bench scale` measures with a thousand, without its times.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::scale::{Made, Scale, endpoint};
use bascule_lab::{Mac, Stamp};

const SERVICES: usize = 50;
/// Endpoints of each on each node.
const EACH: usize = 2;
const NODES: u8 = 3;

fn owners(
    scale: &Scale,
    announced: &BTreeMap<Ipv4Addr, (Stamp, Mac)>,
    vips: &BTreeSet<Ipv4Addr>,
) -> BTreeMap<Ipv4Addr, u8> {
    let node = |mac: Mac| (1..=NODES).find(|n| scale.mac(*n) == mac);
    vips.iter().filter_map(|vip| Some((*vip, node(announced.get(vip)?.1)?))).collect()
}

#[test]
fn fifty_services_take_one_write_each_and_a_death_moves_only_its_own() -> Result<()> {
    let _turn = crate::kube::turn();
    let mut scale = Scale::new("kscale", NODES, NODES)?;
    scale.spread()?;
    let made: Vec<Made> = (0..SERVICES)
        .map(|i| {
            let of = |n: u8| (0..EACH).map(move |k| (n, endpoint(n, EACH * i + k), true));
            Made { name: format!("s{i:02}"), endpoints: (1..=NODES).flat_map(of).collect() }
        })
        .collect();
    let began = scale.make(&made)?;
    let given = scale.addresses(began, &made)?;
    let vips: BTreeSet<Ipv4Addr> = given.values().map(|(_, vip)| *vip).collect();
    ensure!(vips.len() == SERVICES, "two Services have one address: {given:?}");
    let all: Vec<Ipv4Addr> = vips.iter().copied().collect();
    let announced = scale.wait_announced(began, &all)?;
    let (answers, _) = scale.knock_all(&all)?;
    for service in &made {
        let (_, vip) = given.get(&service.name).context("an address")?;
        let by = answers.get(vip).context("an answer")?;
        ensure!(
            service.endpoints.iter().any(|(_, address, _)| address == by),
            "{vip} is answered by {by}: {service:?}"
        );
    }
    let patched = |event: &&serde_json::Value| {
        event["verb"] == "patch" && event["objectRef"]["resource"] == "services" && event["stage"] == "ResponseComplete"
    };
    let writes = scale.audit()?.iter().filter(patched).count();
    ensure!(writes == SERVICES, "{writes} writes for {SERVICES} Services");

    // Of two that give no addresses one dies.
    let before = owners(&scale, &announced, &vips);
    ensure!(before.len() == SERVICES, "announced by nobody's MAC: {announced:?}");
    let leader = scale.leader()?;
    let victim = (1..=NODES).rev().find(|n| *n != leader).context("another node")?;
    let lost: Vec<Ipv4Addr> = before.iter().filter(|(_, n)| **n == victim).map(|(vip, _)| *vip).collect();
    ensure!(!lost.is_empty(), "n{victim} has no VIP: {before:?}");
    let died = scale.kill(victim)?;
    // Its last words may have come before the end of that; a successor's first are repeated.
    let after = owners(&scale, &scale.wait_announced(Stamp::now(), &lost)?, &vips);
    ensure!(lost.iter().all(|vip| after.contains_key(vip)), "announced by nobody's MAC: {after:?}");
    let (_, answered) = scale.knock_all(&lost)?;
    println!("{} of {SERVICES} VIPs moved; {:?} from the death to their last answer", lost.len(), answered.since(died));
    for (vip, owner) in &after {
        ensure!(*owner != victim, "{vip} is announced by a dead node");
        ensure!(
            before.get(vip) == Some(owner) || lost.contains(vip),
            "{vip} moved from {:?} to {owner}",
            before.get(vip)
        );
    }
    scale.clean()?;
    Ok(())
}
