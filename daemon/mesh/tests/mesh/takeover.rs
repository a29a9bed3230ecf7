//! Relays that die, hang, come back; and the incarnation that outlives them.

use bascule_mesh::state::{Command, Ended, Event, RelayError, Status};

use crate::common::proxy::Proxy;
use crate::common::{A, B, Mesh, Node, PATIENCE, members, summary, until};

fn relay(status: &Status, of: bascule_core::site::SiteId) -> Option<&str> {
    status.sites[&of].relay.as_deref()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_relay_takes_over_from_one_that_was_killed_and_back() {
    let mut mesh = Mesh::new(10);
    let dirs = [mesh.issue(A, "a1"), mesh.issue(A, "a2")];
    let b = mesh.start(B, "b1", &[]).await;
    let peers = members(&[(B, &[b.address])]);
    let start = async |mesh: &Mesh, which: usize, leads: bool| {
        let mut config = mesh.config(&dirs[which], peers.clone());
        config.leads = leads;
        let node = Node::start(config).await;
        node.write(1, Some(summary(10, 1))).await;
        node
    };
    let mut leading = start(&mesh, 0, true).await;
    let mut standing = start(&mesh, 1, false).await;
    b.tell(Command::Peers(members(&[(A, &[standing.address, leading.address])]))).await;
    b.hears(A).await;
    b.until("B speaks with a1", |s| relay(s, A) == Some("a1")).await;
    for round in 0..4usize {
        let stood = standing.until("it has begun", |s| s.incarnation > 0).await.incarnation;
        leading.kill().await;
        // As the site's election would.
        standing.tell(Command::Lead(true)).await;
        let name = ["a2", "a1"][round % 2];
        let ready = 20 + u16::try_from(round).expect("few");
        standing.write(1, Some(summary(ready, 1))).await;
        until("B knows what the new relay writes", || b.record(A, 1) == Some(summary(ready, 1))).await;
        let status = b.until("B speaks with the other one", |s| relay(s, A) == Some(name)).await;
        let read = status.sites[&A].cursor.incarnation;
        assert_eq!((read, standing.status().await.incarnation), (stood, stood), "it goes on as what it was");
        assert!(!standing.status().await.duplicate);
        leading = standing;
        standing = start(&mesh, round % 2, false).await;
        b.tell(Command::Peers(members(&[(A, &[standing.address, leading.address])]))).await;
    }
    assert_eq!(b.count(|e| matches!(e, Event::DuplicateSite { .. })), 0);
    assert!(!standing.status().await.leads);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_carries_nothing_is_noticed_at_both_ends_and_replaced() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[]).await;
    let proxy = Proxy::start(a.address).await;
    let b = mesh.start(B, "b1", &[(A, &[proxy.address])]).await;
    a.tell(Command::Peers(members(&[(B, &[])]))).await;
    b.hears(A).await;
    proxy.hold(true);
    let silent = |s: &Status| s.counters.ended.contains_key(&Ended::Silent);
    b.until("B has noticed", silent).await;
    a.until("A has noticed", silent).await;
    proxy.hold(false);
    a.write(5, Some(summary(5, 5))).await;
    until("B hears A again", || b.record(A, 5) == Some(summary(5, 5))).await;
}

/// A host that dies says nothing: its successor's call is what makes peers ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_silent_gives_way_to_another_that_calls_and_one_that_answers_does_not() {
    let mut mesh = Mesh::new(1);
    let (dir, other) = (mesh.issue(A, "a1"), mesh.issue(A, "a2"));
    let b = mesh.start(B, "b1", &[]).await;
    let a1 = Node::start(mesh.config(&dir, members(&[(B, &[])]))).await;
    let proxy = Proxy::start(a1.address).await;
    b.tell(Command::Peers(members(&[(A, &[proxy.address])]))).await;
    b.until("B speaks with a1", |s| relay(s, A) == Some("a1")).await;
    let a2 = Node::start(mesh.config(&other, members(&[(B, &[b.address])]))).await;
    let held = Ended::Goodbye(bascule_mesh::state::frame::Goodbye::Held);
    // The first of these calls makes B ask a1. It is not answered for 2 s, were it silent: the last comes later than that.
    let since = std::time::Instant::now();
    let late = std::time::Duration::from_secs(4);
    a2.until("B has sent a2 away for long", |s| s.counters.ended.contains_key(&held) && since.elapsed() > late).await;
    assert_eq!((b.status().await.sites[&A].sessions, relay(&b.status().await, A)), (1, Some("a1")), "a1 answers");
    b.tell(Command::Peers(members(&[(A, &[proxy.address, a2.address])]))).await;
    proxy.hold(true);
    let since = std::time::Instant::now();
    a2.tell(Command::Lead(false)).await;
    a2.tell(Command::Lead(true)).await;
    b.until("B speaks with a2", |s| relay(s, A) == Some("a2")).await;
    // Silence alone takes 15 s.
    assert!(since.elapsed().as_secs() < 15, "{:?}", since.elapsed());
    assert_eq!(b.status().await.counters.ended.get(&Ended::Silent), Some(&1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_session_is_kept_by_beats_and_pings() {
    // Silence ends a session after 15 s of the machine's time: 1.9 s in which a busy machine must let both ends speak.
    let mut mesh = Mesh::new(8);
    let a = mesh.start(A, "a1", &[]).await;
    let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
    a.tell(Command::Peers(members(&[(B, &[])]))).await;
    b.hears(A).await;
    // Two minutes of that time.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(15);
    crate::common::until("two minutes are over", || std::time::Instant::now() > until).await;
    for node in [&a, &b] {
        assert_eq!(node.count(|e| matches!(e, Event::Down { .. })), 0);
    }
    let sent = a.status().await.sites[&B].sent;
    assert!((100..4000).contains(&sent), "{sent} bytes of frames in two idle minutes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_incarnation_is_on_the_disk_before_anything_is_said_in_it() {
    let mut mesh = Mesh::new(10);
    let dir = mesh.issue(A, "a1");
    let file = dir.join("incarnation");
    for expected in 1..=3u64 {
        let node = Node::start(mesh.config(&dir, members(&[]))).await;
        node.until("it leads", |s| s.incarnation == expected).await;
        assert_eq!(std::fs::read_to_string(&file).expect("the file").trim(), expected.to_string());
        node.tell(Command::Stop).await;
        node.task.await.expect("it ends in order").expect("without an error");
    }
    // Peers remember what a wiped disk forgot, and the new disk learns it.
    let a = Node::start(mesh.config(&dir, members(&[(B, &[])]))).await;
    let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
    a.write(1, Some(summary(1, 1))).await;
    until("B knows", || b.record(A, 1).is_some()).await;
    a.kill().await;
    std::fs::remove_file(&file).expect("wiped");
    let a = Node::start(mesh.config(&dir, members(&[(B, &[b.address])]))).await;
    a.until("A has learned of its past", |s| s.incarnation == 5).await;
    assert_eq!(std::fs::read_to_string(&file).expect("the file").trim(), "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_disk_that_keeps_its_incarnation_a_relay_says_so_and_exports_nothing() {
    let mut mesh = Mesh::new(10);
    let dir = mesh.issue(A, "a1");
    let b = mesh.start(B, "b1", &[]).await;
    for spoil in 0..2 {
        let file = dir.join(format!("incarnation-{spoil}"));
        match spoil {
            0 => std::fs::write(&file, "seven").expect("written"),
            _ => std::fs::create_dir(&file).expect("made"),
        }
        let mut config = mesh.config(&dir, members(&[(B, &[b.address])]));
        config.incarnation = file;
        let node = Node::start(config).await;
        let ended = tokio::time::timeout(PATIENCE, node.task).await.expect("it ends");
        assert!(matches!(ended.expect("no panic"), Err(RelayError::Disk(_))));
    }
    assert_eq!(b.status().await.counters.accepted, 0, "nobody was called");
}
