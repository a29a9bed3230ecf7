//! A thousand Services in one go; then quiet; then one node's death.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bascule_lab::scale::{Made, Scale, asked, endpoint, usage, writes};
use bascule_lab::{Mac, Report, Stamp, sleep_until};

use super::{NODES, count, ms};

const SERVICES: usize = 1000;
/// Endpoints of each on each node.
const EACH: usize = 2;
const ALL_S: f64 = 30.0;
const WRITES: f64 = 1.1;
const IDLE_REQUESTS: f64 = 0.5;
const IDLE_CPU: f64 = 1.0;
const TAKEOVER_MS: f64 = 1000.0;
/// What is left to do after the last announcement (pools' status, refreshes of it) is over by then.
const CALM: Duration = Duration::from_secs(10);
/// Long enough for each watch to be replaced once.
const IDLE: Duration = Duration::from_secs(60);

pub(super) fn measure(scale: &mut Scale, report: &mut Report) -> Result<()> {
    scale.refresh()?;
    scale.spread()?;
    let scene = "1,000 Services in one go";
    let made: Vec<Made> = (0..SERVICES)
        .map(|i| {
            let of = |n: u8| (0..EACH).map(move |k| (n, endpoint(n, 2 * i + k), true));
            Made { name: format!("many-{i:04}"), endpoints: (1..=NODES).flat_map(of).collect() }
        })
        .collect();
    let before = scale.audit()?.len();
    let began = scale.make(&made)?;
    let written = Stamp::now();
    let given = scale.addresses(began, &made)?;
    let vips: Vec<Ipv4Addr> = made.iter().filter_map(|service| given.get(&service.name).map(|(_, vip)| *vip)).collect();
    let announced = scale.wait_announced(began, &vips)?;
    let s = |to: Stamp| to.since(began).as_secs_f64();
    let last = |stamps: &mut dyn Iterator<Item = Stamp>| stamps.max().map_or(f64::MAX, s);
    report.note(scene, "the bench's own writes", s(written), "s", 1);
    report.note(
        scene,
        "first write to the last address in a status",
        last(&mut given.values().map(|(at, _)| *at)),
        "s",
        1,
    );
    let last_announced = last(&mut vips.iter().filter_map(|vip| announced.get(vip)).map(|(at, _)| *at));
    report.at_most(scene, "first write to the last announcement", last_announced, "s", ALL_S, 1);
    let (answers, answered) = scale.knock_all(&vips)?;
    report.at_least(scene, "VIPs that answer a client outside", count(answers.len()), "VIPs", count(SERVICES), 1);
    report.note(scene, "first write to the last of these answers, one after the other", s(answered), "s", 1);
    let mut distinct = vips.clone();
    distinct.sort();
    distinct.dedup();
    report.at_least(scene, "different addresses", count(distinct.len()), "addresses", count(SERVICES), 1);

    sleep_until(Stamp::now() + CALM);
    let events = scale.audit()?;
    let of_all = count(writes(&events[before..])) / count(SERVICES);
    report.at_most(scene, "API writes per Service", of_all, "writes", WRITES, 1);
    scale.work_apart(true)?;
    idle(scale, report)?;
    scale.work_apart(false)?;
    death(scale, &vips, report)
}

/// What daemons do when nothing happens.
fn idle(scale: &Scale, report: &mut Report) -> Result<()> {
    let leader = scale.leader()?;
    let scene = "1,000 Services, quiet";
    let cpu = |n: u8| usage(&scale.daemon(n).process);
    let before: BTreeMap<u8, _> = scale.alive().into_iter().map(|n| Ok((n, cpu(n)?))).collect::<Result<_>>()?;
    let (from, began) = (scale.audit()?.len(), Stamp::now());
    sleep_until(began + IDLE);
    let events = scale.audit()?;
    let took = Stamp::now().since(began).as_secs_f64();
    for n in scale.alive() {
        let who = if n == leader { "the allocator's node".to_owned() } else { format!("node {n}") };
        let rate = count(asked(&events[from..], &scale.source(n))) / took;
        let metric = format!("requests of {who}");
        if n == leader {
            report.note(scene, &metric, rate, "1/s", 1);
        } else {
            report.at_most(scene, &metric, rate, "1/s", IDLE_REQUESTS, 1);
        }
        let now = cpu(n)?;
        let used = now.cpu.saturating_sub(before[&n].cpu).as_secs_f64() / took * 100.0;
        report.at_most(scene, &format!("processor time of {who}"), used, "% of a core", IDLE_CPU, 1);
        report.note(scene, &format!("resident memory of {who}"), now.rss, "MiB", 1);
    }
    Ok(())
}

/// A node dies that gives no addresses: what it owned is announced by others, and nothing else is by somebody else than before.
fn death(scale: &mut Scale, vips: &[Ipv4Addr], report: &mut Report) -> Result<()> {
    scale.refresh()?;
    let scene = "death of a node of 1,000 Services";
    let leader = scale.leader()?;
    let victim = scale.alive().into_iter().find(|n| *n != leader).context("a node that gives no addresses")?;
    let of: BTreeMap<Ipv4Addr, Mac> = owners(scale, vips)?;
    let lost: Vec<Ipv4Addr> = of.iter().filter(|(_, mac)| **mac == scale.mac(victim)).map(|(vip, _)| *vip).collect();
    scale.sniffer.forget(Stamp::now());
    let died = scale.kill(victim)?;
    let after = scale.wait_announced(died, &lost)?;
    let times = || lost.iter().filter_map(|vip| after.get(vip)).map(|(at, _)| *at);
    let (first, last) = (times().min().context("VIPs of the dead node")?, times().max().context("VIPs")?);
    report.note(scene, "its VIPs", count(lost.len()), "VIPs", 1);
    report.note(scene, "death to the first announcement of a successor", ms(first.since(died)), "ms", 1);
    report.at_most(scene, "that announcement to the last", ms(last.since(first)), "ms", TAKEOVER_MS, 1);
    let (_, answered) = scale.knock_all(&lost)?;
    report.note(scene, "death to the last answer outside, one after the other", ms(answered.since(died)), "ms", 1);
    let now = owners(scale, vips)?;
    let needless = of.iter().filter(|(vip, mac)| !lost.contains(vip) && now.get(*vip) != Some(mac)).count();
    report.at_most(scene, "VIPs of others that moved", count(needless), "VIPs", 0.0, 1);
    Ok(())
}

/// Who has each VIP, by the word of the nodes.
fn owners(scale: &Scale, vips: &[Ipv4Addr]) -> Result<BTreeMap<Ipv4Addr, Mac>> {
    let mut all = BTreeMap::new();
    for n in scale.alive() {
        let state = scale.daemon(n).state()?;
        let active = state["groups"].as_array().into_iter().flatten().filter(|group| group["role"] == "active");
        let addresses = active.flat_map(|group| group["addresses"].as_array().into_iter().flatten());
        let parsed = addresses.filter_map(|address| address.as_str()?.parse::<Ipv4Addr>().ok());
        all.extend(parsed.filter(|vip| vips.contains(vip)).map(|vip| (vip, scale.mac(n))));
    }
    Ok(all)
}
