//! Several relays of two sites that all have sessions: who finds whom.

use std::net::SocketAddr;

use bascule_core::site::SiteId;
use bascule_core::site::state::message::Message;
use bascule_mesh::state::frame::{Frame, Goodbye};
use bascule_mesh::state::{Command, Ended, Event, Status};
use tokio::net::TcpListener;

use crate::common::rogue::Rogue;
use crate::common::{A, B, Mesh, Node, members, summary, until};

const TURNS: usize = 6;

fn relay(status: &Status, of: SiteId) -> Option<&str> {
    status.sites[&of].relay.as_deref()
}

/// Relays of a site, of which the first leads, that know where those of the other one are.
async fn start(mesh: &mut Mesh, site: SiteId, names: &[&str], at: Vec<TcpListener>, other: &[SocketAddr]) -> Vec<Node> {
    let there = if site == A { B } else { A };
    let mut all = Vec::new();
    for (n, (name, listener)) in names.iter().zip(at).enumerate() {
        let dir = mesh.issue(site, name);
        let mut config = mesh.config(&dir, members(&[(there, other)]));
        config.leads = n == 0;
        all.push(Node::start_on(config, listener));
    }
    all
}

async fn ports(count: usize) -> (Vec<TcpListener>, Vec<SocketAddr>) {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(TcpListener::bind("127.0.0.1:0").await.expect("a port"));
    }
    let at = all.iter().map(|l| l.local_addr().expect("its address")).collect();
    (all, at)
}

/// Three relays against two.
async fn sites(mesh: &mut Mesh) -> (Vec<Node>, Vec<Node>) {
    let ((of_a, at_a), (of_b, at_b)) = (ports(3).await, ports(2).await);
    let a = start(mesh, A, &["a1", "a2", "a3"], of_a, &at_b).await;
    let b = start(mesh, B, &["b1", "b2"], of_b, &at_a).await;
    (a, b)
}

fn duplicates<'a>(all: impl IntoIterator<Item = &'a Node>) -> usize {
    all.into_iter().map(|node| node.count(|e| matches!(e, Event::DuplicateSite { .. }))).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_lead_find_one_another_and_each_other_takes_who_is_free() {
    let mut mesh = Mesh::new(10);
    let (mut a, b) = sites(&mut mesh).await;
    for node in &a {
        node.write(1, Some(summary(10, 1))).await;
    }
    b[0].until("b1 speaks with a1", |s| relay(s, A) == Some("a1") && s.sites[&A].leads).await;
    b[1].until("b2 speaks with another one", |s| matches!(relay(s, A), Some("a2" | "a3"))).await;
    a[0].until("a1 speaks with b1", |s| relay(s, B) == Some("b1")).await;
    for node in &b {
        until("each knows what A writes", || node.record(A, 1) == Some(summary(10, 1))).await;
    }
    let begun: Vec<u64> = [a[1].status().await, a[2].status().await].map(|s| s.incarnation).to_vec();
    a.remove(0).kill().await;
    a[0].tell(Command::Lead(true)).await;
    for node in &a {
        node.write(1, Some(summary(90, 1))).await;
    }
    b[0].until("b1 speaks with a2", |s| relay(s, A) == Some("a2") && s.sites[&A].leads).await;
    b[1].until("b2 speaks with the one that is left", |s| relay(s, A) == Some("a3")).await;
    for node in &b {
        until("each knows what A writes now", || node.record(A, 1) == Some(summary(90, 1))).await;
    }
    let now: Vec<u64> = [a[0].status().await, a[1].status().await].map(|s| s.incarnation).to_vec();
    assert_eq!((begun, duplicates(a.iter().chain(&b))), (now, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_lead_in_turn_swap_partners_and_are_no_accident() {
    let mut mesh = Mesh::new(10);
    let ((of_a, at_a), (of_b, at_b)) = (ports(2).await, ports(2).await);
    let a = start(&mut mesh, A, &["a1", "a2"], of_a, &at_b).await;
    let b = start(&mut mesh, B, &["b1", "b2"], of_b, &at_a).await;
    // Who is told by a relay must not hear that a session is over that goes on with another one, whichever of two calls that cross becomes it.
    let over = |node: &Node| node.count(|e| matches!(e, Event::Heard { up: false, .. }));
    let (mut leads, mut before) = ((0, 0), None);
    for turn in 0..TURNS {
        let names = (["a1", "a2"][leads.0], ["b1", "b2"][leads.1]);
        b[leads.1].until("those who lead", |s| relay(s, A) == Some(names.0)).await;
        a[leads.0].until("find one another", |s| relay(s, B) == Some(names.1)).await;
        let rest = (["a1", "a2"][1 - leads.0], ["b1", "b2"][1 - leads.1]);
        b[1 - leads.1].until("and the others", |s| relay(s, A) == Some(rest.0)).await;
        a[1 - leads.0].until("one another", |s| relay(s, B) == Some(rest.1)).await;
        let ready = 10 + 10 * u16::try_from(turn).expect("few");
        for node in &a {
            node.write(1, Some(summary(ready, 1))).await;
        }
        for node in &b {
            until("each knows it", || node.record(A, 1) == Some(summary(ready, 1))).await;
        }
        let now = (over(&a[leads.0]), over(&b[leads.1]));
        assert_eq!(before.unwrap_or(now), now, "turn {turn}: sessions of those who lead that were said to be over");
        let next =
            (if turn % 3 == 1 { leads.0 } else { 1 - leads.0 }, if turn % 3 == 0 { leads.1 } else { 1 - leads.1 });
        // Where both move, the next two may lose each other to those who led.
        before = (turn % 3 != 2).then(|| (over(&a[next.0]), over(&b[next.1])));
        // At one end, at the other, then at both at once.
        if turn % 3 != 1 {
            a[leads.0].tell(Command::Lead(false)).await;
            leads.0 = 1 - leads.0;
            a[leads.0].tell(Command::Lead(true)).await;
        }
        if turn % 3 != 0 {
            b[leads.1].tell(Command::Lead(false)).await;
            leads.1 = 1 - leads.1;
            b[leads.1].tell(Command::Lead(true)).await;
        }
    }
    assert_eq!(duplicates(a.iter().chain(&b)), 0);
    for node in a.iter().chain(&b) {
        assert_eq!(node.status().await.incarnation, 1, "nothing was written to a disk since");
    }
}

/// It says nothing of a rank, and knows one writer of a site.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_of_an_earlier_version_has_a_session_with_the_one_that_leads_alone() {
    let mut mesh = Mesh::new(10);
    let (dir, earlier) = (mesh.issue(A, "a1"), mesh.issue(B, "b1"));
    let mut config = mesh.config(&dir, members(&[(B, &[])]));
    config.leads = false;
    let clock = std::sync::Arc::clone(&config.clock);
    let a1 = Node::start(config).await;
    a1.until("it has begun", |s| s.incarnation > 0).await;
    let mut rogue = Rogue::connect(&earlier, &clock, a1.address, A).await;
    let standby = Frame::Goodbye(Goodbye::Standby).encode();
    assert_eq!(rogue.read().await, Some((5, standby[4..].to_vec())));
    a1.tell(Command::Lead(true)).await;
    a1.until("it leads", |s| s.leads).await;
    let mut rogue = Rogue::connect(&earlier, &clock, a1.address, A).await;
    rogue.greeted().await;
    rogue.hello(1).await;
    a1.until("a session with it", |s| relay(s, B) == Some("b1") && s.sites[&B].version.is_some()).await;
    assert!(a1.status().await.sites[&B].leads);
    a1.tell(Command::Lead(false)).await;
    let mut words = Vec::new();
    while let Some((kind, payload)) = rogue.read().await {
        if kind != 0 || Message::parse(&payload).is_err() {
            words.push((kind, payload));
        }
    }
    assert_eq!(words, [(5, Frame::Goodbye(Goodbye::Stopping).encode()[4..].to_vec())], "no frame that it may not know");
    assert_eq!(a1.status().await.counters.ended.get(&Ended::Ours), Some(&1));
}
