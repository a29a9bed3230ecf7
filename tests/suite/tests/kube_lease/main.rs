//! Electors on a Lease of a real API server, with RBAC: who is entitled when, through what may happen to a node and to the server.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bascule_core::election::lease::kube::KubeConfig;
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{CloseReason, Condition, Word};
use bascule_core::time::Instant;
use bascule_core::types::Term;
use bascule_k8s::{Access, Elector, ElectorConfig, LeaseName};
use bascule_lab::apiserver::ApiServer;
use bascule_lab::{BridgeOptions, Direction, Filter, Lab, Netns, Port, wait_for};
use bascule_suite::candidate::{Candidate, PATIENCE, check, now};
use serde_json::{Value, json};

/// Accounts `elector`, with what an elector needs and no more, and `nobody`.
const MANIFESTS: &str = include_str!("../../fixtures/kube_lease.yaml");
/// The Lease of every scene: kube-vip's.
const NAMESPACE: &str = "kube-system";
const LEASE: &str = "plndr-cp-lock";
const SECOND: Duration = Duration::from_secs(1);
const API: &str = "10.9.0.1";

/// The times of the scenes that wait for a lease to run out.
fn short() -> Result<Timing> {
    Ok(Timing::kubernetes(SECOND * 3, SECOND * 2, SECOND * 3 / 10)?)
}

struct Scene {
    candidates: Vec<Candidate>,
    nodes: Vec<(Netns, Port)>,
    api: ApiServer,
    token: String,
    // Last: everything above lies in it.
    _lab: Lab,
}

impl Scene {
    fn new(name: &str, nodes: u8) -> Result<Self> {
        let lab = Lab::new(name)?;
        let lan = lab.bridge("lan", &BridgeOptions::default())?;
        let (host, _) = lab.host("api", &lan, &[format!("{API}/24").parse()?])?;
        let host_of = |n| Ok(lab.host(&format!("n{n}"), &lan, &[format!("10.9.0.1{n}/24").parse()?])?);
        let nodes = (1..=nodes).map(host_of).collect::<Result<_>>()?;
        let api = ApiServer::start(&lab, &host, &[API.parse()?])?;
        api.apply(MANIFESTS)?;
        // Nobody's, so that nobody waits for the absence of one to last.
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": LEASE, "namespace": NAMESPACE}, "spec": {"holderIdentity": "", "leaseDurationSeconds": 1}});
        api.must("POST", &collection(), Some(&lease))?;
        let token = api.token(NAMESPACE, "elector")?;
        // The authorizer's own watch follows what was just created.
        wait_for(PATIENCE, "the role to be known", || {
            let (status, _) = api.request_as(&token, "GET", &object(), None).ok()?;
            (status == 200).then_some(())
        })?;
        Ok(Self { candidates: Vec::new(), nodes, api, token, _lab: lab })
    }

    fn start_all(&mut self, timing: Timing) -> Result<()> {
        for (netns, _) in &self.nodes {
            let kubeconfig = self.api.kubeconfig(netns.name(), API.parse::<IpAddr>()?, &self.token)?;
            self.candidates.push(start(netns, kubeconfig, timing)?);
        }
        Ok(())
    }

    /// Waits until one of them owns that `allowed` names; its index.
    fn owner(&self, allowed: impl Fn(usize) -> bool) -> Result<usize> {
        let found = wait_for(PATIENCE, "an owner", || (0..self.candidates.len()).find(|i| self.candidates[*i].owns()))?;
        ensure!(allowed(found), "{} owns", self.candidates[found].name);
        Ok(found)
    }

    fn lease(&self) -> Result<Value> {
        Ok(self.api.must("GET", &object(), None)?)
    }
}

fn start(netns: &Netns, kubeconfig: PathBuf, timing: Timing) -> Result<Candidate> {
    let name = netns.name().to_owned();
    let machine = KubeConfig {
        identity: name.clone(),
        instance: format!("boot-of-{name}"),
        timing,
        seed: Some(u64::from(name.as_bytes()[name.len() - 1])),
        term: Term(0),
    };
    let lease = LeaseName { namespace: NAMESPACE.to_owned(), name: LEASE.to_owned() };
    let config = ElectorConfig { access: Access::Kubeconfig(kubeconfig), lease, machine, timing, clock: now };
    Candidate::start(netns, move |commands, say| Elector::new(config).run(commands, say))
}

fn collection() -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")
}

fn object() -> String {
    format!("{}/{LEASE}", collection())
}

/// The clock of the electors, when a wait began.
fn since(start: Instant) -> Duration {
    now().since(start)
}

#[test]
fn a_dead_a_parted_and_a_stopped_owner_each_have_one_successor() -> Result<()> {
    let mut scene = Scene::new("lease", 3)?;
    let timing = short()?;
    scene.start_all(timing)?;
    let first = scene.owner(|_| true)?;
    let lease = scene.lease()?;
    ensure!(lease["spec"]["holderIdentity"] == scene.candidates[first].name.as_str(), "{lease}");
    ensure!(lease["spec"]["leaseDurationSeconds"] == 3, "{lease}");

    // Its way to the API server is cut: its right ends by itself, and only then does another's begin.
    let cut = now();
    let dropper = scene.nodes[first].1.cut(Direction::Both, Filter::All)?;
    let (_, reason) = scene.candidates[first].closed(cut)?;
    ensure!(reason == CloseReason::Expired, "{reason:?}");
    scene.candidates[first].hear(cut, "that the server is unreachable", |word| {
        matches!(word, Word::Condition { condition: Condition::Unreachable, .. }).then_some(())
    })?;
    let second = scene.owner(|i| i != first)?;
    println!("cut off: {} owns {:?} after the cut", scene.candidates[second].name, since(cut));
    dropper.heal()?;

    // Killed: nobody says goodbye.
    let last = scene.candidates[second].rights().last().copied().context("it owns")?;
    scene.candidates[second].kill()?;
    let dead = now();
    let third = wait_for(PATIENCE, "an owner after the death", || {
        let others = scene.candidates.iter().enumerate().filter(|(i, _)| *i != second);
        others.filter(|(_, c)| c.owns()).map(|(i, _)| i).next()
    })?;
    let claimed = scene.candidates[third].rights().last().copied().context("it owns")?;
    ensure!(claimed.from >= last.until, "{claimed:?} begins before {last:?} ends");
    println!("killed: {} owns {:?} after the death", scene.candidates[third].name, claimed.from.since(dead));

    for (_, candidate) in scene.candidates.iter_mut().enumerate().filter(|(i, _)| *i != second) {
        candidate.stop()?;
    }
    ensure!(scene.lease()?["spec"]["holderIdentity"] == "", "what is given up by choice is released");
    check(&scene.candidates)
}

#[test]
fn a_frozen_api_server_ends_the_claim_and_a_stop_frees_the_lease_at_once() -> Result<()> {
    let mut scene = Scene::new("freeze", 2)?;
    scene.start_all(short()?)?;
    let owner = scene.owner(|_| true)?;
    let frozen = now();
    scene.api.server.stop();
    let (_, reason) = scene.candidates[owner].closed(frozen)?;
    ensure!(reason == CloseReason::Expired, "{reason:?}");
    let claims: usize = scene.candidates.iter().map(Candidate::claims).sum();
    ensure!(!scene.candidates.iter().any(Candidate::owns), "without the store nobody owns");
    scene.api.server.cont();
    scene.owner(|_| true)?;
    ensure!(scene.candidates.iter().map(Candidate::claims).sum::<usize>() > claims, "a claim of its own");
    for candidate in &mut scene.candidates {
        candidate.stop()?;
    }
    check(&scene.candidates)?;

    // A lease of a minute: whoever follows sooner was told.
    let long = Timing::kubernetes(SECOND * 60, SECOND * 40, SECOND * 15)?;
    scene.candidates.clear();
    scene.start_all(long)?;
    let owner = scene.owner(|_| true)?;
    let other = 1 - owner;
    scene.candidates[other]
        .hear(Instant::ZERO, "who holds it", |word| matches!(word, Word::Holder(Some(_))).then_some(()))?;
    scene.candidates[owner].stop()?;
    let stopped = now();
    scene.owner(|i| i == other)?;
    let followed = since(stopped);
    println!("released: the other owns after {followed:?}");
    ensure!(followed < SECOND * 30, "{followed:?} is half of the lease");
    scene.candidates[other].stop()?;
    check(&scene.candidates)
}

#[test]
fn kube_vips_lease_is_respected_and_a_role_is_needed() -> Result<()> {
    let mut scene = Scene::new("foreign", 1)?;
    // As client-go of kube-vip writes and renews it.
    let write = |scene: &Scene, renewal: u32| -> Result<()> {
        let mut lease = scene.lease()?;
        lease["spec"] = json!({"holderIdentity": "cp2", "leaseDurationSeconds": 10, "leaseTransitions": 7,
            "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": format!("2026-01-01T00:00:{renewal:02}.000000Z")});
        scene.api.must("PUT", &object(), Some(&lease))?;
        Ok(())
    };
    write(&scene, 0)?;
    scene.start_all(short()?)?;
    let started = now();
    let mut renewal = 0;
    let mut last = started;
    while since(started) < SECOND * 13 {
        renewal += 1;
        last = now();
        write(&scene, renewal)?;
        let until = bascule_lab::Stamp::now() + SECOND / 2;
        bascule_lab::sleep_until(until);
    }
    if let Some(right) = scene.candidates[0].rights().first() {
        bail!("{right:?} although kube-vip renews");
    }
    scene.owner(|_| true)?;
    let right = scene.candidates[0].rights()[0];
    ensure!(
        right.from.since(last) >= SECOND * 10,
        "{:?} after the last renewal of a lease of 10 s",
        right.from.since(last)
    );
    let lease = scene.lease()?;
    ensure!(lease["spec"]["holderIdentity"] == "n1" && lease["spec"]["leaseTransitions"] == 8, "{lease}");
    scene.candidates[0].stop()?;
    check(&scene.candidates)?;

    // Without the role the server's own words say what is missing.
    scene.token = scene.api.token(NAMESPACE, "nobody")?;
    scene.candidates.clear();
    scene.start_all(short()?)?;
    let said = scene.candidates[0].hear(Instant::ZERO, "that it is denied", |word| match word {
        Word::Condition { condition: Condition::Denied, detail } => Some(detail.clone().unwrap_or_default()),
        _ => None,
    })?;
    ensure!(said.contains("403") && said.contains("cannot get resource \"leases\""), "{said}");
    scene.candidates[0].stop()
}
