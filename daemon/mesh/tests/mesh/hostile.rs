//! A peer with a good certificate that misbehaves, and strangers: refused, counted, and nobody else notices (issue 6, Shows 7).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::state::io::CloseReason;
use bascule_core::site::state::message::{Message, RECORDS};
use bascule_core::site::state::record::{Body, Key, Record};
use bascule_core::site::summary::ServiceId;
use bascule_mesh::clock::Clock;
use bascule_mesh::state::frame::Frame;
use bascule_mesh::state::{Ended, Event, Status};
use tokio::net::TcpStream;

use crate::common::rogue::Rogue;
use crate::common::{A, B, C, Mesh, Node, key, summary, until};

/// A and B talk; C is whatever the test makes of it.
struct Scene {
    mesh: Mesh,
    a: Node,
    b: Node,
    c: PathBuf,
    written: u32,
}

impl Scene {
    async fn new() -> Self {
        let mut mesh = Mesh::new(10);
        let c = mesh.issue(C, "c1");
        let a = mesh.start(A, "a1", &[(B, &[]), (C, &[])]).await;
        let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
        b.hears(A).await;
        a.hears(B).await;
        Self { mesh, a, b, c, written: 0 }
    }

    async fn rogue(&self) -> Rogue {
        let clock: Arc<dyn Clock> = self.mesh.clock.clone();
        Rogue::connect(&self.c, &clock, self.a.address, A).await
    }

    /// Connected and greeted, as process `incarnation`.
    async fn peer(&self, incarnation: u64) -> Rogue {
        let mut rogue = self.rogue().await;
        rogue.hello(incarnation).await;
        rogue.greeted().await;
        rogue
    }

    async fn ended(&self, why: Ended) {
        self.a.until(&format!("{why:?} is counted"), |s: &Status| s.counters.ended.contains_key(&why)).await;
    }

    /// What A and B have goes on.
    async fn unaffected(&mut self) {
        self.written += 1;
        let n = u16::try_from(self.written).expect("few");
        self.a.write(1, Some(summary(n, 0))).await;
        self.b.write(1, Some(summary(n, 1))).await;
        until("B knows what A writes", || self.b.record(A, 1) == Some(summary(n, 0))).await;
        until("A knows what B writes", || self.a.record(B, 1) == Some(summary(n, 1))).await;
        let down = |e: &Event| matches!(e, Event::Down { site, .. } if *site != C);
        assert_eq!((self.a.count(down), self.b.count(down)), (0, 0));
    }
}

fn record(id: u32, seq: u64) -> Record {
    Record { key: key(id), seq, age: Duration::ZERO, body: Some(summary(1, 1)) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_and_messages_that_are_none_end_the_session() {
    let mut scene = Scene::new().await;
    // Kinds that do not exist, lengths beyond all bounds, greetings twice.
    for bytes in [&[9, 0, 0, 0][..], &[0, 0xff, 0xff, 0xff], &[2, 0, 0, 1, 0], &[4, 0, 0, 0]] {
        let mut rogue = scene.peer(1).await;
        rogue.raw(bytes).await;
        rogue.closed().await;
    }
    let mut rogue = scene.peer(1).await;
    rogue.send(&Frame::Greeting { process: 1, renews: false, rank: None }).await;
    rogue.closed().await;
    scene.a.until("five are counted", |s| s.counters.ended.get(&Ended::Malformed) == Some(&5)).await;
    // Truncated: every message cut short.
    let whole = Message::Delta { incarnation: 1, head: 2, records: vec![record(1, 2)] }.encode();
    for cut in 1..whole.len() {
        let mut rogue = scene.peer(1).await;
        rogue.send(&Frame::Message(whole[..cut].to_vec())).await;
        rogue.closed().await;
    }
    let malformed = Ended::Machine(CloseReason::Malformed);
    let cuts = u64::try_from(whole.len() - 1).expect("few");
    scene.a.until("each is counted", |s| s.counters.ended.get(&malformed) == Some(&cuts)).await;
    // Before Hello nothing else is said.
    let mut rogue = scene.rogue().await;
    rogue.say(&Message::Resync).await;
    rogue.closed().await;
    scene.ended(Ended::Machine(CloseReason::Order)).await;
    assert!(scene.a.records(C).is_empty());
    scene.unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_bytes_in_good_frames_are_refused_or_mean_nothing() {
    let mut scene = Scene::new().await;
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for round in 0..40u64 {
        let mut rogue = scene.peer(1).await;
        for _ in 0..20 {
            let len = usize::try_from(draw() % 200).expect("small") + 1;
            // A tag that exists, then noise: deeper into the parser than noise alone.
            let mut bytes = vec![u8::try_from(draw() % 13).expect("small")];
            bytes
                .extend((0..len).map(|_| u8::try_from(draw() % if round % 2 == 0 { 4 } else { 256 }).expect("a byte")));
            rogue.send(&Frame::Message(bytes)).await;
        }
        drop(rogue);
    }
    let malformed = Ended::Machine(CloseReason::Malformed);
    scene.a.until("most were no messages", |s| s.counters.ended.get(&malformed).is_some_and(|n| *n >= 30)).await;
    assert!(scene.a.records(C).len() < 100);
    scene.unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_and_bombs_end_the_session_and_hold_little() {
    let mut scene = Scene::new().await;
    let mut rogue = scene.peer(1).await;
    for _ in 0..2000 {
        rogue.say(&Message::Ask { service: ServiceId(1), amount: 1 }).await;
    }
    rogue.closed().await;
    scene.ended(Ended::Machine(CloseReason::Flood)).await;
    let mut rogue = scene.peer(1).await;
    for _ in 0..200 {
        rogue.send(&Frame::Ping).await;
    }
    rogue.closed().await;
    scene.ended(Ended::Pings).await;
    // Ten megabytes of a snapshot that never ends.
    let mut rogue = scene.peer(2).await;
    for part in 0..400 {
        let first = part * u32::try_from(RECORDS).expect("few");
        let records = (0..1000).map(|i| record(first + i, 5)).collect();
        rogue.say(&Message::Snapshot { incarnation: 2, head: 9, part, last: false, records }).await;
    }
    rogue.closed().await;
    let bomb = |s: &Status| {
        let of = |why| s.counters.ended.get(&Ended::Machine(why)).copied().unwrap_or(0);
        of(CloseReason::TooMany) + of(CloseReason::Flood) >= 2
    };
    let status = scene.a.until("the bomb is counted", bomb).await;
    assert!(status.sites[&C].held <= 6280, "{} records held", status.sites[&C].held);
    // Parts out of order.
    let mut rogue = scene.peer(3).await;
    rogue.say(&Message::Snapshot { incarnation: 3, head: 9, part: 1, last: true, records: Vec::new() }).await;
    rogue.closed().await;
    scene.ended(Ended::Machine(CloseReason::Order)).await;
    assert!(scene.a.records(C).is_empty());
    scene.unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_is_left_and_others_do_not_wait_for_it() {
    let mut scene = Scene::new().await;
    for id in 0..4000 {
        scene.a.write(id + 10, Some(summary(7, id))).await;
    }
    let mut rogue = scene.peer(1).await;
    // Asks for everything again and again and takes nothing: what the kernels hold between the two is soon full.
    let asks = async {
        let mut pace = tokio::time::interval(Duration::from_millis(2));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rogue.say(&Message::Resync).await;
            pace.tick().await;
        }
    };
    let slow = scene.a.until("it is too slow", |s| s.counters.ended.contains_key(&Ended::Slow));
    tokio::select! {
        status = slow => {
            let (frames, bytes) = status.sites[&C].waiting;
            assert!(frames <= 256 && bytes <= 1024 * 1024, "{frames} frames, {bytes} bytes");
        }
        () = asks => {}
    }
    scene.unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_vips_and_old_times_are_refused_and_counted() {
    let mut scene = Scene::new().await;
    let mut rogue = scene.peer(7).await;
    let vip = |text: &str| Key::Vip(text.parse().expect("an address"));
    let claim =
        |key, seq| Record { key, seq, age: Duration::ZERO, body: Some(Body::Vip { service: ServiceId(1), term: 0 }) };
    let records = vec![claim(vip("10.3.0.1"), 1), claim(vip("10.2.0.1"), 2), claim(vip("10.1.0.1"), 3), record(5, 4)];
    let all = Message::Snapshot { incarnation: 7, head: 4, part: 0, last: true, records };
    rogue.say(&all).await;
    let status = scene.a.until("two are foreign", |s| s.sites[&C].refused.foreign == 2).await;
    assert!(status.sites[&C].relay.is_some(), "the session goes on without them");
    until("its own is known", || scene.a.records(C).contains_key(&vip("10.3.0.1"))).await;
    assert!(!scene.a.records(C).contains_key(&vip("10.2.0.1")) && !scene.a.records(C).contains_key(&vip("10.1.0.1")));
    assert_eq!(scene.a.count(|e| matches!(e, Event::ForeignVip { site: C, .. })), 2);
    // The same once more changes nothing; what is of an earlier process is stale.
    let news = |node: &Node| node.record(C, 5);
    let delta = |incarnation, seq, body| Message::Delta {
        incarnation,
        head: 9,
        records: vec![Record { key: key(5), seq, age: Duration::ZERO, body: Some(body) }],
    };
    rogue.say(&delta(7, 4, summary(9, 9))).await;
    rogue.say(&delta(6, 99, summary(9, 9))).await;
    scene.a.until("the old time is stale", |s| s.sites[&C].refused.stale == 1).await;
    assert_eq!(news(&scene.a), Some(summary(1, 1)));
    // Recorded, and played again on another session by whoever holds the certificate: still of an earlier process.
    drop(rogue);
    let mut rogue = scene.peer(8).await;
    rogue.say(&all).await;
    scene.a.until("the recording is stale", |s| s.sites[&C].refused.stale == 2).await;
    rogue.say(&Message::Delta { incarnation: 8, head: 1, records: Vec::new() }).await;
    assert_eq!(news(&scene.a), Some(summary(1, 1)));
    scene.unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_bytes_of_a_session_are_worth_nothing_on_another_connection() {
    let mut scene = Scene::new().await;
    let proxy = crate::common::proxy::Proxy::start(scene.a.address).await;
    let clock: Arc<dyn Clock> = scene.mesh.clock.clone();
    // Everything that C's client sends, handshake included, through a wire that listens.
    let (near, far) = (tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port"), proxy.address);
    let at = near.local_addr().expect("its address");
    let tap = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (client, _) = near.accept().await.expect("a client");
        let server = TcpStream::connect(far).await.expect("the relay");
        let ((mut from, mut back), (mut answers, mut to)) = (client.into_split(), server.into_split());
        let returned = tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            kept.extend(&buffer[..read]);
            to.write_all(&buffer[..read]).await.expect("the relay reads");
        }
        returned.abort();
        kept
    });
    let mut rogue = Rogue::connect(&scene.c, &clock, at, A).await;
    rogue.hello(4).await;
    rogue.greeted().await;
    rogue.say(&Message::Snapshot { incarnation: 4, head: 4, part: 0, last: true, records: vec![record(5, 4)] }).await;
    until("A knows it", || scene.a.record(C, 5).is_some()).await;
    drop(rogue);
    let kept = tap.await.expect("a recording");
    assert!(kept.len() > 1000, "{} bytes are no handshake", kept.len());
    let before = scene.a.status().await;
    for _ in 0..3 {
        use tokio::io::AsyncWriteExt as _;
        let mut stream = TcpStream::connect(scene.a.address).await.expect("a relay listens");
        stream.write_all(&kept).await.expect("written");
    }
    let after = scene
        .a
        .until("each is refused", |s| {
            let of = |s: &Status| s.counters.sent_away.values().sum::<u64>() + s.counters.unfinished;
            of(s) >= of(&before) + 3
        })
        .await;
    assert_eq!(after.sites[&C].sessions, before.sites[&C].sessions);
    scene.unaffected().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_say_nothing_take_their_own_place_only() {
    let mut scene = Scene::new().await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(TcpStream::connect(scene.a.address).await.expect("a relay listens"));
    }
    scene.a.until("more than 64 are too many", |s| s.counters.crowded > 0).await;
    scene.unaffected().await;
    scene.a.until("their time is up", |s| s.counters.unfinished >= 64).await;
    // And there is room again.
    let mut rogue = scene.peer(1).await;
    rogue.hello(1).await;
    assert!(scene.a.status().await.sites[&C].relay.is_some());
}
