//! One elector behind a relay that hangs, loses, is late and breaks, and with certificates that are no good.
//!
//! Nothing here asserts how fast something happens, but that it happens, in which order, and never too early.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{CloseReason, Condition, Word};
use bascule_core::time::Instant;
use bascule_core::types::Term;
use bascule_etcd::{Access, Endpoint, TlsFiles};
use bascule_lab::etcd::Data;
use bascule_lab::pki::Authority;
use bascule_lab::wait_for;
use bascule_suite::candidate::{Candidate, PATIENCE, now};
use bascule_suite::etcd::{KEY, SECOND, Scene, replace, start};

use crate::proxy::{Mood, Proxy};

/// One member that believes relays on loopback too, and one node with a relay.
struct Relayed {
    scene: Scene,
    proxy: Proxy,
}

impl Relayed {
    fn new(name: &str) -> Result<Self> {
        let scene = Scene::new(name, 1, 1, Data::Memory)?;
        let proxy = Proxy::start(&scene.nodes[0].0, server(&scene)?)?;
        Ok(Self { scene, proxy })
    }

    fn start(&self, ttl: Duration) -> Result<Candidate> {
        let files = self.scene.user("elector", "elector")?;
        self.start_at(vec![self.proxy.endpoint.clone()], files, ttl)
    }

    fn start_at(&self, endpoints: Vec<Endpoint>, files: TlsFiles, ttl: Duration) -> Result<Candidate> {
        start(&self.scene.nodes[0].0, Access::new(endpoints, Some(files))?, ttl)
    }
}

fn server(scene: &Scene) -> Result<SocketAddr> {
    let endpoint = &scene.endpoints[0];
    Ok(SocketAddr::new(endpoint.host().parse()?, endpoint.port()))
}

fn claim(node: &Candidate, since: Instant) -> Result<(Term, u64)> {
    node.hear(since, "a claim", |word| match word {
        Word::Claim { term, epoch, .. } => Some((*term, *epoch)),
        _ => None,
    })
}

fn extension(node: &Candidate, since: Instant) -> Result<Instant> {
    node.hear(since, "an extension", |word| match word {
        Word::Extend { deadline, .. } => Some(*deadline),
        _ => None,
    })
}

fn condition(node: &Candidate, since: Instant, wanted: Condition) -> Result<String> {
    node.hear(since, &format!("{wanted:?}"), |word| match word {
        Word::Condition { condition, detail } if *condition == wanted => Some(detail.clone().unwrap_or_default()),
        _ => None,
    })
}

/// The claim ends at its deadline, not before; a network that is well again gives a claim of its own.
fn expires_and_comes_back(name: &str, mood: Mood) -> Result<()> {
    let relayed = Relayed::new(name)?;
    let mut node = relayed.start(SECOND * 2)?;
    let (term, epoch) = claim(&node, Instant::ZERO)?;
    extension(&node, Instant::ZERO)?;
    let asked = relayed.proxy.asked();
    relayed.proxy.set(mood);
    let since = now();
    let (closed, reason) = node.closed(since)?;
    ensure!(reason == CloseReason::Expired && closed >= term, "{closed:?} {reason:?}");
    let words = node.words();
    let at = words.iter().rposition(|(_, word)| matches!(word, Word::Close { .. })).context("it closed")?;
    let deadline = words[..at].iter().rev().find_map(|(_, word)| match word {
        Word::Extend { deadline, .. } | Word::Claim { deadline, .. } => Some(*deadline),
        _ => None,
    });
    let (closed_at, deadline) = (words[at].0, deadline.context("it claimed")?);
    ensure!(closed_at >= deadline, "it closes {:?} before its deadline", deadline.since(closed_at));
    ensure!(relayed.proxy.asked() > asked, "it tried");
    condition(&node, since, Condition::Unreachable)?;
    let well = now();
    relayed.proxy.set(Mood::Well);
    let again = claim(&node, well)?;
    ensure!(again.0 > closed && again.1 > epoch, "{again:?} after {closed:?} of {term:?} {epoch}");
    node.stop()?;
    ensure!(relayed.scene.value()?.is_none(), "what is given up by choice is released");
    Ok(())
}

#[test]
fn a_network_that_hangs_costs_the_claim_at_its_deadline_and_it_comes_back() -> Result<()> {
    expires_and_comes_back("hang", Mood::Hang)
}

#[test]
fn answers_that_are_lost_cost_the_claim_at_its_deadline_and_it_comes_back() -> Result<()> {
    expires_and_comes_back("swallow", Mood::Swallow)
}

#[test]
fn connections_that_break_cost_the_claim_at_its_deadline_and_it_comes_back() -> Result<()> {
    expires_and_comes_back("break", Mood::Break)
}

#[test]
fn a_late_answer_counts_from_before_its_request() -> Result<()> {
    const LATE: Duration = Duration::from_millis(700);
    let relayed = Relayed::new("slow")?;
    let ttl = SECOND * 5;
    let hold = Timing::etcd(ttl)?.hold();
    let mut node = relayed.start(ttl)?;
    extension(&node, Instant::ZERO)?;
    relayed.proxy.set(Mood::Slow(LATE));
    // What was under way when the mood changed had a quick answer, perhaps.
    let slow = now();
    let first = extension(&node, slow)?;
    let heard = |node: &Candidate| -> Vec<(Instant, Instant)> {
        let extensions = node.words().into_iter().filter_map(|(at, word)| match word {
            Word::Extend { deadline, .. } if deadline > first => Some((at, deadline)),
            _ => None,
        });
        extensions.collect()
    };
    wait_for(PATIENCE, "three late answers", || (heard(&node).len() >= 3).then_some(()))?;
    for (at, deadline) in heard(&node) {
        let left = deadline.since(at);
        ensure!(left <= hold - LATE, "an answer {LATE:?} late leaves {left:?} of {hold:?}");
    }
    ensure!(node.claims() == 1, "it was one claim all the time");
    node.stop()
}

#[test]
fn a_dead_and_a_silent_member_are_passed_over() -> Result<()> {
    let relayed = Relayed::new("members")?;
    let silent = Proxy::start(&relayed.scene.nodes[0].0, server(&relayed.scene)?)?;
    silent.set(Mood::Hang);
    // Nothing listens on the port of tcpmux.
    let dead: Endpoint = "https://127.0.0.1:1".parse()?;
    let endpoints = vec![dead, silent.endpoint.clone(), relayed.proxy.endpoint.clone()];
    let files = relayed.scene.user("elector", "elector")?;
    let mut node = relayed.start_at(endpoints, files, SECOND * 12)?;
    claim(&node, Instant::ZERO)?;
    ensure!(silent.accepted() > 0, "the silent one was tried");
    extension(&node, Instant::ZERO)?;

    // The one that served falls silent, and the one that was silent serves.
    silent.set(Mood::Well);
    relayed.proxy.set(Mood::Hang);
    let moved = now();
    for round in 0..2 {
        extension(&node, moved + SECOND * round)?;
    }
    wait_for(PATIENCE, "an extension by the other member", || {
        let late = node.words().iter().filter(|(at, word)| *at > moved && matches!(word, Word::Extend { .. })).count();
        (late >= 2).then_some(())
    })?;
    ensure!(node.claims() == 1, "it was one claim all the time");
    node.stop()
}

#[test]
fn a_certificate_that_is_replaced_is_used_at_once_and_costs_no_claim() -> Result<()> {
    let relayed = Relayed::new("rotate")?;
    let files = relayed.scene.user("elector", "elector")?;
    let mut node = relayed.start_at(vec![relayed.proxy.endpoint.clone()], files.clone(), SECOND * 5)?;
    extension(&node, Instant::ZERO)?;
    let before = relayed.proxy.accepted();
    replace(&relayed.scene.user("next", "elector")?, &files)?;
    wait_for(PATIENCE, "a new connection", || (relayed.proxy.accepted() > before).then_some(()))?;
    extension(&node, now())?;
    ensure!(node.claims() == 1, "it was one claim all the time");
    node.stop()
}

#[test]
fn what_is_not_believed_is_said_and_heals_when_the_files_do() -> Result<()> {
    let relayed = Relayed::new("pki")?;
    let good = relayed.scene.user("good", "elector")?;
    let at = || vec![relayed.proxy.endpoint.clone()];

    // A server that another CA has signed for.
    let stranger = Authority::create(&relayed.scene.lab.directory().join("stranger"))?;
    let mut node = relayed.start_at(at(), TlsFiles { ca: stranger.ca, ..good.clone() }, SECOND * 5)?;
    let said = condition(&node, Instant::ZERO, Condition::Unreachable)?;
    ensure!(said.contains("invalid peer certificate"), "{said}");
    node.stop()?;

    // A certificate whose time is over, until it is replaced.
    let expired = relayed.scene.files(relayed.scene.authority.sign_expired("expired", "elector", &[])?);
    let mut node = relayed.start_at(at(), expired.clone(), SECOND * 5)?;
    let said = condition(&node, Instant::ZERO, Condition::Denied)?;
    ensure!(said.contains("received fatal alert"), "{said}");
    ensure!(node.claims() == 0, "nobody believes it");
    replace(&good, &expired)?;
    claim(&node, Instant::ZERO)?;
    node.stop()?;

    // Files that come later.
    let late = relayed.scene.user("late", "elector")?;
    std::fs::remove_file(&late.key)?;
    let mut node = relayed.start_at(at(), late.clone(), SECOND * 5)?;
    let said = condition(&node, Instant::ZERO, Condition::Unreachable)?;
    ensure!(said.contains("late.key") && said.contains("No such file"), "{said}");
    replace(&good, &late)?;
    claim(&node, Instant::ZERO)?;
    node.stop()
}

#[test]
fn a_user_needs_the_role_and_no_more() -> Result<()> {
    let relayed = Relayed::new("role")?;
    let member = &relayed.scene.members[0];
    for command in [
        "user add root:lab",
        "user grant-role root root",
        "role add bascule",
        "role grant-permission bascule readwrite /bascule/lease/ --prefix=true",
        "user add elector --no-password",
        "user grant-role elector bascule",
        "user add nobody --no-password",
        "auth enable",
    ] {
        member.etcdctl(&command.split(' ').collect::<Vec<_>>())?;
    }
    let mut node = relayed.start(SECOND * 5)?;
    claim(&node, Instant::ZERO)?;
    extension(&node, Instant::ZERO)?;
    let root = |args: &[&str]| member.etcdctl(&[&["--user=root:lab"], args].concat());
    let value = root(&["get", KEY, "--print-value-only"])?;
    ensure!(value.trim() == "n1/boot-of-n1", "{value}");

    let stranger = relayed.scene.user("nobody", "nobody")?;
    let mut other = relayed.start_at(vec![relayed.proxy.endpoint.clone()], stranger, SECOND * 5)?;
    let said = condition(&other, Instant::ZERO, Condition::Denied)?;
    ensure!(said.contains("etcdserver: permission denied"), "{said}");
    other.stop()?;
    node.stop()?;
    ensure!(root(&["get", KEY])?.is_empty(), "what is given up by choice is released");
    Ok(())
}
