//! Who owns the VIPs of Services: deaths, drains, returns, and a start without an API server.

use anyhow::{Result, ensure};
use bascule_core::shard::eligible::{ConditionStatus, DRAIN_ANNOTATION, EXCLUDE_LABEL, NodeFacts};
use bascule_lab::wait_for;

use crate::kube::{Kube, SHARDS, SHOWS, only, pods, service, vip};
use crate::talk::Talk;
use crate::yard::PORT;

/// VIPs, so that every shard has some.
const VIPS: u8 = 24;

#[test]
fn a_death_moves_only_its_vips_and_a_return_or_a_drain_only_what_it_must() -> Result<()> {
    let mut kube = Kube::new("kdeath")?;
    let pods_of = [kube.yard.pod(1)?, kube.yard.pod(2)?];
    let [one, two] = &pods_of;
    for k in 0..VIPS {
        kube.add(service(&format!("s{k:02}"), k), pods(&[(one, 1), (two, 2)]));
    }
    kube.start()?;
    let before = kube.wait_owners(|_| true)?;
    for k in 0..VIPS {
        only(&kube.talks(k, 1)?, &[one, two])?;
    }
    // Node 3 has no pods: its death is one of an owner only.
    kube.yard.crew.node(3).port.set_up(false)?;
    if let Some(mut daemon) = kube.yard.crew.node_mut(3).daemon.take() {
        daemon.process.sigkill()?;
    }
    let after = kube.wait_owners(|owners| owners.values().all(|owner| *owner != 3))?;
    for (shard, owner) in &before {
        ensure!(*owner == 3 || after[shard] == *owner, "{shard} was not of the dead node: {before:?} {after:?}");
    }
    for k in 0..VIPS {
        only(&kube.talks(k, 1)?, &[one, two])?;
    }
    // It returns, from the intent that it kept and with no API server to ask, and takes nothing.
    kube.yard.crew.node(3).netns.forget_pins();
    for k in 0..VIPS {
        if kube.yard.node(3).netns.has_address("eth0", vip(k)) {
            kube.yard.node(3).netns.delete_address("eth0", vip(k))?;
        }
    }
    kube.yard.crew.node(3).port.set_up(true)?;
    kube.start_without_api(3)?;
    kube.wait_owners(|owners| *owners == after)?;
    let state = kube.yard.daemon(3).state()?;
    ensure!(state["cluster"]["source"] == "file" && state["cluster"]["mayOwn"] == true, "{}", state["cluster"]);
    let backup = |n: u8| {
        let state = kube.yard.daemon(n).state().ok()?;
        state["groups"].as_array()?.iter().all(|group| group["role"] != "initialize").then_some(())
    };
    wait_for(SHOWS, "it to take part", || backup(3))?;
    // The way back is asked for.
    let moves = kube.yard.daemon(2).ctl(&["rebalance"])?;
    let balanced = kube.wait_owners(|owners| *owners == before);
    ensure!(balanced.is_ok() && moves.lines().count() == 2, "{moves}\n{balanced:?}");
    let nothing = kube.yard.daemon(1).ctl(&["rebalance"])?;
    ensure!(nothing == "every shard is at its best node\n", "{nothing}");

    // A drained node gives up what it has, and says why.
    kube.wait_settled()?;
    let node = kube.intent.nodes.get_mut("n1").expect("a node of the lab");
    let _none = node.facts.annotations.insert(DRAIN_ANNOTATION.to_owned(), "true".to_owned());
    kube.tell()?;
    let drained = kube.wait_owners(|owners| owners.values().all(|owner| *owner != 1))?;
    for (shard, owner) in &before {
        ensure!(*owner == 1 || drained[shard] == *owner, "{shard} was not of the drained node: {before:?} {drained:?}");
    }
    let status = kube.yard.daemon(1).ctl(&["status"])?;
    ensure!(status.contains("this node owns no VIPs of Services: annotation bascule.dev/drain is true"), "{status}");
    ensure!(kube.yard.daemon(1).get("/ready")?.0 == 200, "a drain is no fault");
    for k in 0..VIPS {
        only(&kube.talks(k, 1)?, &[one, two])?;
    }
    let mut held = Talk::open(&kube.yard.client, vip(0), PORT)?;
    let number = held.exchange(10, 10)?;
    let node = kube.intent.nodes.get_mut("n1").expect("a node of the lab");
    node.facts.annotations.clear();
    kube.tell()?;
    wait_for(SHOWS, "the drained node to take part again", || backup(1))?;
    ensure!(kube.wait_owners(|_| true)? == drained, "and takes nothing back by itself");
    ensure!(held.exchange(10_000, 10_000)? == number);
    Ok(())
}

#[test]
fn a_node_that_may_not_own_says_why_and_its_vips_serve_from_others() -> Result<()> {
    let mut kube = Kube::new("kmay")?;
    let pods_of = [kube.yard.pod(1)?, kube.yard.pod(2)?];
    let [one, two] = &pods_of;
    for k in 0..VIPS {
        kube.add(service(&format!("s{k:02}"), k), pods(&[(one, 1), (two, 2)]));
    }
    kube.node_selector = &["edge=yes"];
    let may = || NodeFacts { labels: [("edge".to_owned(), "yes".to_owned())].into(), ..NodeFacts::default() };
    kube.intent.nodes.values_mut().for_each(|node| node.facts = may());
    kube.start()?;
    let unselected = NodeFacts { labels: [("edge".to_owned(), "no".to_owned())].into(), ..may() };
    let mut excluded = may();
    let _none = excluded.labels.insert(EXCLUDE_LABEL.to_owned(), "false".to_owned());
    let cut = NodeFacts { network_unavailable: ConditionStatus::True, ..may() };
    let deleting = NodeFacts { deleting: true, ..may() };
    for (n, facts, why) in [
        (3, unselected, "the node selector asks for another value of label edge"),
        (2, excluded, "exclude-from-external-load-balancers is set"),
        (1, cut, "condition NetworkUnavailable is True"),
        (3, deleting, "the node is being deleted"),
    ] {
        let name = format!("n{n}");
        kube.intent.nodes.get_mut(&name).expect("a node of the lab").facts = facts;
        kube.tell()?;
        kube.wait_owners(|owners| owners.values().all(|owner| *owner != n))?;
        let status = kube.yard.daemon(n).ctl(&["status"])?;
        ensure!(status.contains(why), "{name}: {why}\n{status}");
        for k in 0..VIPS {
            only(&kube.talks(k, 1)?, &[one, two])?;
        }
        kube.wait_settled()?;
        kube.intent.nodes.get_mut(&name).expect("a node of the lab").facts = may();
        kube.tell()?;
        let again = || {
            let state = kube.yard.daemon(n).state().ok()?;
            let groups = state["groups"].as_array()?;
            let part = groups.iter().filter(|group| group["role"] != "initialize").count();
            (part == usize::from(SHARDS)).then_some(())
        };
        wait_for(SHOWS, "it to take part again", again)?;
    }
    Ok(())
}
