//! Relays of other versions over the wire (F32).

use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::state::io::CloseReason;
use bascule_core::site::state::message::{LATER, Message};
use bascule_core::site::state::record::Record;
use bascule_core::site::state::version::Speaks;
use bascule_mesh::clock::Clock;
use bascule_mesh::state::frame::Frame;
use bascule_mesh::state::{Command, Ended, Event};

use crate::common::rogue::Rogue;
use crate::common::{A, B, C, Mesh, Node, key, summary, until};

const NEXT: Speaks = Speaks { oldest: 1, newest: Speaks::OURS.newest + 1 };

/// A, and a peer that is greeted and speaks this.
async fn with(mesh: &mut Mesh, speaks: Speaks) -> (Node, Rogue) {
    let a = mesh.start(A, "a1", &[(B, &[])]).await;
    let dir = mesh.issue(B, "b1");
    let clock: Arc<dyn Clock> = mesh.clock.clone();
    let mut peer = Rogue::connect(&dir, &clock, a.address, A).await;
    peer.hello_as(1, speaks).await;
    peer.greeted().await;
    (a, peer)
}

fn whole(records: Vec<Record>) -> Message {
    Message::Snapshot { incarnation: 1, head: 9, part: 0, last: true, records }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_newer_relay_adds_is_left_out_counted_and_ends_nothing() {
    let mut mesh = Mesh::new(10);
    let (a, mut peer) = with(&mut mesh, NEXT).await;
    // A frame of a kind that nobody has here, a message of one, and a good one with more behind it.
    peer.raw(&[LATER, 0, 0, 3, 7, 7, 7]).await;
    peer.send(&Frame::Message(vec![99, 1, 2, 3])).await;
    let record = Record { key: key(1), seq: 9, age: Duration::ZERO, body: Some(summary(5, 1)) };
    peer.send(&Frame::Message([&whole(vec![record]).encode()[..], b"more"].concat())).await;
    until("the record is taken", || a.record(B, 1) == Some(summary(5, 1))).await;
    let status = a.until("all is counted", |s| s.sites[&B].refused.unknown == 2 && s.counters.unknown == 1).await;
    assert_eq!((status.sites[&B].version, status.counters.ended.len()), (Some(Speaks::OURS.newest), 0), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_relay_hears_nothing_that_it_does_not_know() {
    for newest in 1..=Speaks::OURS.newest {
        let mut mesh = Mesh::new(10);
        let (a, mut peer) = with(&mut mesh, Speaks { oldest: 1, newest }).await;
        a.tell(Command::Reach([(C, true)].into())).await;
        a.write(1, Some(summary(5, 1))).await;
        peer.say(&whole(Vec::new())).await;
        // Up to the first records all that is said is of the version that was agreed on.
        let (mut about, mut reach) = (false, false);
        loop {
            let (kind, payload) = peer.read().await.expect("the session stands");
            if kind != 0 {
                continue;
            }
            let message = Message::parse(&payload).expect("a message");
            assert!(message.since() <= newest, "{message:?}");
            about |= matches!(&message, Message::About { build } if build == "a test");
            reach |= matches!(&message, Message::Reach { sites } if *sites == [(C, true)].into());
            if matches!(message, Message::Delta { .. } | Message::Snapshot { .. }) {
                break;
            }
        }
        assert_eq!((about, reach), (newest >= 2, newest >= 3));
        let status = a.status().await;
        assert_eq!((status.sites[&B].version, status.counters.ended.len()), (Some(newest), 0), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_without_a_common_version_is_refused_in_words_and_may_come_back_as_another() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[(B, &[])]).await;
    let dir = mesh.issue(B, "b1");
    let clock: Arc<dyn Clock> = mesh.clock.clone();
    let theirs = Speaks { oldest: 9, newest: 12 };
    let mut peer = Rogue::connect(&dir, &clock, a.address, A).await;
    peer.hello_as(1, theirs).await;
    peer.closed().await;
    let versions = Event::Versions { site: B, theirs, ours: Speaks::OURS };
    until("it is said", || a.count(|e| *e == versions) == 1).await;
    let closed = Ended::Machine(CloseReason::Version);
    a.until("it is counted", |s| s.counters.ended.get(&closed) == Some(&1)).await;
    let b = mesh.start(B, "b2", &[(A, &[a.address])]).await;
    b.hears(A).await;
    a.hears(B).await;
    let status = a.status().await;
    assert_eq!(status.sites[&B].build.as_deref(), Some("a test"));
}
