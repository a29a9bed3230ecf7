//! What hostile peers may cost in memory (F26): a process of its own, with nothing else in it.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "what only the tests of `mesh` use")]
mod common;

use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::state::message::{Message, RECORDS};
use bascule_core::site::state::record::Record;
use bascule_mesh::clock::Clock;
use bascule_mesh::state::frame::Frame;
use bascule_mesh::state::{Command, Event};
use common::rogue::Rogue;
use common::{A, B, C, Mesh, key, summary, until};
use tokio::net::TcpStream;

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: u64 = text.split(' ').nth(1).and_then(|n| n.parse().ok()).expect("resident pages");
    pages * 4096
}

/// What F26 allows.
const MOST: u64 = 32 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_floods_and_strangers_cost_no_more_than_32_megabytes() {
    let mut mesh = Mesh::new(10);
    let c = mesh.issue(C, "c1");
    let a = mesh.start(A, "a1", &[(B, &[]), (C, &[])]).await;
    let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
    for id in 0..4000 {
        a.write(id, Some(summary(9, id))).await;
    }
    until("B knows all", || b.records(A).len() == 4000).await;
    let clock: Arc<dyn Clock> = mesh.clock.clone();
    // The first of each kind fills what the process keeps for good: buffers, the pools of its allocator.
    let (mut before, mut worst) = (0, 0u64);
    for round in 0..6u32 {
        let incarnation = u64::from(round) + 1;
        let mut rogue = Rogue::connect(&c, &clock, a.address, A).await;
        rogue.hello(incarnation).await;
        // 200 parts of a thousand records: 3 MB on the wire, 16 MB if it were believed.
        for part in 0..200 {
            let first = part * u32::try_from(RECORDS).expect("few");
            let one = |i| Record { key: key(first + i), seq: 5, age: Duration::ZERO, body: Some(summary(1, 1)) };
            let records = (0..1000).map(one).collect();
            rogue.say(&Message::Snapshot { incarnation, head: 9, part, last: false, records }).await;
            worst = worst.max(resident());
        }
        rogue.closed().await;
        // Frames of the largest size that are no messages, as many as it will take.
        let mut rogue = Rogue::connect(&c, &clock, a.address, A).await;
        for _ in 0..100 {
            rogue.send(&Frame::Message(vec![0xff; 65_536])).await;
            worst = worst.max(resident());
        }
        rogue.closed().await;
        // Everything, again and again, and nothing of it is read.
        let mut rogue = Rogue::connect(&c, &clock, a.address, A).await;
        rogue.hello(incarnation).await;
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(TcpStream::connect(a.address).await.expect("a relay listens"));
        }
        for _ in 0..300 {
            rogue.say(&Message::Resync).await;
            worst = worst.max(resident());
        }
        drop((rogue, held));
        if round == 0 {
            before = resident();
            worst = 0;
        }
    }
    let status = a.until("the last one is gone", |s| s.sites[&C].relay.is_none()).await;
    println!(
        "{} kB resident after the first round, {} kB at most in five more; ended {:?}, crowded {}",
        before / 1024,
        worst / 1024,
        status.counters.ended,
        status.counters.crowded
    );
    assert!(worst.saturating_sub(before) <= MOST, "{worst} after {before}");
    assert!(status.sites[&C].held <= 6280, "{} records", status.sites[&C].held);
    a.write(1, Some(summary(1, 77))).await;
    until("B goes on", || b.record(A, 1) == Some(summary(1, 77))).await;
    assert_eq!(a.count(|e| matches!(e, Event::Down { site: B, .. })), 0);
    a.tell(Command::Stop).await;
}
