//! BFD between the nodes of a cluster, from the list of nodes alone: a node that dies is seen, and new connections go elsewhere.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use bascule_lab::{Stamp, wait_for};
use serde_json::{Value, json};

use crate::kube::{Kube, SHOWS, START, only, pods, service, vip};
use crate::talk::Talk;
use crate::yard::PORT;

/// Enough connections that both pods are chosen, but for one run in ten millions.
const MANY: usize = 24;

/// The sessions of a node that are up, by the name of the other node.
fn sessions(kube: &Kube, n: u8, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().map(|node| format!("node/{node}")).collect();
    let mut last = Value::Null;
    let found = wait_for(START, "BFD with the other nodes", || {
        let (_, body) = kube.yard.daemon(n).get("/bfd").ok()?;
        last = serde_json::from_str(&body).ok()?;
        let all = last["peers"].as_array()?;
        let up = all.iter().filter(|session| session["state"] == "up").filter_map(|s| s["name"].as_str());
        (up.map(str::to_owned).collect::<BTreeSet<_>>() == wanted && all.len() == wanted.len()).then_some(())
    });
    found.with_context(|| format!("n{n}: {wanted:?}\n{last:#}\n{}", kube.told()))
}

#[test]
fn a_dead_node_is_seen_and_its_pods_get_nothing_new() -> Result<()> {
    let mut kube = Kube::new("kbfd")?;
    kube.bfd = Some(json!({"transmitInterval": "50ms", "receiveInterval": "50ms", "multiplier": 5}));
    let (one, two) = (kube.yard.pod(1)?, kube.yard.pod(2)?);
    kube.add(service("web", 1), pods(&[(&one, 1), (&two, 2)]));
    kube.start()?;
    for (n, others) in [(1, ["n2", "n3"]), (2, ["n1", "n3"]), (3, ["n1", "n2"])] {
        sessions(&kube, n, &others)?;
    }
    let answers = kube.talks(1, MANY)?;
    only(&answers, &[&one, &two])?;
    ensure!(answers.iter().collect::<BTreeSet<_>>().len() == 2, "both nodes take connections: {answers:?}");
    let mut held = loop {
        let mut talk = Talk::open(&kube.yard.client, vip(1), PORT)?;
        if talk.exchange(10, 10)? == one.number {
            break talk;
        }
    };

    // Nothing tells that it is gone: its link is cut, and its daemon dies behind the cut.
    kube.yard.crew.node(2).port.set_up(false)?;
    let cut = Stamp::now();
    for n in [1, 3] {
        kube.yard.crew.wait_page(n, SHOWS, "the node to be down", |page| {
            let nodes = page["nodes"].as_array();
            nodes.is_some_and(|nodes| nodes.iter().any(|node| node["name"] == "n2" && node["up"] == false))
        })?;
    }
    println!("{:?} from the cut to the last node that says so, polled", Stamp::now().since(cut));
    if let Some(mut daemon) = kube.yard.crew.node_mut(2).daemon.take() {
        daemon.process.sigkill()?;
    }
    kube.wait_owners(|owners| owners.values().all(|owner| *owner != 2))?;
    only(&kube.talks(1, MANY)?, &[&one])?;
    ensure!(held.exchange(100_000, 100_000)? == one.number, "what the other node has goes on");

    // The list of nodes decides.
    let _gone = kube.intent.nodes.remove("n2");
    kube.tell()?;
    sessions(&kube, 1, &["n3"])?;
    sessions(&kube, 3, &["n1"])?;
    only(&kube.talks(1, 3)?, &[&one])
}
