//! What one site writes, the others know.

use std::sync::atomic::Ordering;

use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_mesh::state::{Command, Event, Status};

use crate::common::proxy::Proxy;
use crate::common::{A, B, C, Mesh, Node, PATIENCE, key, members, summary, until};

fn service(endpoints: u16, seed: u32) -> Body {
    let ready = endpoints - u16::try_from(seed % 2).expect("0 or 1");
    let capacity = u32::from(ready) * 100;
    Body::Service(Summary { ready, expected: endpoints, draining: false, capacity, demand: seed % 977 })
}

async fn write_all(node: &Node, services: u32, endpoints: u16) {
    for id in 0..services {
        node.write(id, Some(service(endpoints, id))).await;
    }
}

fn knows(node: &Node, origin: bascule_core::site::SiteId, services: u32, endpoints: u16) -> bool {
    let records = node.records(origin);
    records.len() == services as usize && (0..services).all(|id| records[&key(id)] == service(endpoints, id))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sites_know_ten_thousand_endpoints_of_each_other() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[]).await;
    let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
    a.tell(Command::Peers(members(&[(A, &[a.address]), (B, &[b.address])]))).await;
    // As many services as a site may have, two endpoints each.
    write_all(&a, 5000, 2).await;
    write_all(&b, 2500, 4).await;
    until("B knows all of A", || knows(&b, A, 5000, 2)).await;
    until("A knows all of B", || knows(&a, B, 2500, 4)).await;
    let status = a.status().await;
    assert_eq!(status.sites.keys().copied().collect::<Vec<_>>(), [B], "a site is not its own peer");
    assert!(status.sites[&B].received < 200_000, "{} bytes for 2,500 services", status.sites[&B].received);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sites_know_ten_thousand_endpoints_together_and_a_removal() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[]).await;
    let b = mesh.start(B, "b1", &[]).await;
    let c = mesh.start(C, "c1", &[]).await;
    let all = members(&[(A, &[a.address]), (B, &[b.address]), (C, &[c.address])]);
    for node in [&a, &b, &c] {
        node.tell(Command::Peers(all.clone())).await;
        write_all(node, 1112, 3).await;
    }
    for (node, others) in [(&a, [B, C]), (&b, [A, C]), (&c, [A, B])] {
        for other in others {
            until("all know all", || knows(node, other, 1112, 3)).await;
        }
    }
    b.write(7, None).await;
    until("A and C know what B removed", || a.record(B, 7).is_none() && c.record(B, 7).is_none()).await;
    let vip = Key::Vip("10.2.0.9".parse().expect("an address"));
    b.tell(Command::Local(vip, Some(Body::Vip { service: ServiceId(1), term: 0 }))).await;
    until("C knows the VIP of B", || c.records(B).contains_key(&vip)).await;
    assert_eq!(c.records(A).keys().filter(|k| matches!(k, Key::Vip(_))).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_site_reaches_the_others_know_whoever_of_its_processes_says_it() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[]).await;
    let b = mesh.start(B, "b1", &[]).await;
    let c = mesh.start(C, "c1", &[]).await;
    let all = members(&[(A, &[a.address]), (B, &[b.address]), (C, &[c.address])]);
    for node in [&a, &b, &c] {
        node.tell(Command::Peers(all.clone())).await;
    }
    let heard = |node: &Node, of, reached| {
        let said = Event::Reach { from: A, reach: [(of, reached)].into() };
        node.count(|event| *event == said)
    };
    a.tell(Command::Reach([(B, true), (C, false)].into())).await;
    until("each is told of the other", || heard(&c, B, true) > 0 && heard(&b, C, false) > 0).await;
    a.tell(Command::Reach([(B, false), (C, true)].into())).await;
    until("news", || heard(&c, B, false) > 0 && heard(&b, C, true) > 0).await;
    a.tell(Command::Anew).await;
    a.hears(B).await;
    let before = [heard(&c, B, false), heard(&b, C, true)];
    until("the next process says the same", || heard(&c, B, false) > before[0] && heard(&b, C, true) > before[1]).await;
    let strangers = |event: &Event| matches!(event, Event::Reach { from, .. } if *from != A);
    assert_eq!([&a, &b, &c].map(|node| node.count(strangers)), [0; 3], "nobody else has anything to say");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_was_cut_resumes_with_what_is_new() {
    let mut mesh = Mesh::new(10);
    let a = mesh.start(A, "a1", &[]).await;
    let proxy = Proxy::start(a.address).await;
    let b = mesh.start(B, "b1", &[(A, &[proxy.address])]).await;
    a.tell(Command::Peers(members(&[(B, &[])]))).await;
    write_all(&a, 3000, 3).await;
    until("B knows all", || knows(&b, A, 3000, 3)).await;
    let whole = proxy.bytes.load(Ordering::Relaxed);
    assert!(whole > 30_000, "{whole} bytes are no snapshot of 3,000 services");
    proxy.closed.store(true, Ordering::Relaxed);
    proxy.cut();
    a.until("A has lost B", |s: &Status| s.sites[&B].relay.is_none()).await;
    a.write(1, Some(summary(3, 3))).await;
    a.write(2, None).await;
    a.write(9000, Some(summary(9, 9))).await;
    assert_eq!(b.records(A).len(), 3000, "what is known stays known");
    proxy.closed.store(false, Ordering::Relaxed);
    until("B knows what is new", || {
        b.record(A, 1) == Some(summary(3, 3)) && b.record(A, 2).is_none() && b.record(A, 9000) == Some(summary(9, 9))
    })
    .await;
    let more = proxy.bytes.load(Ordering::Relaxed) - whole;
    assert!(more < whole / 4, "{more} bytes after {whole}: handshakes and a delta, not a snapshot");
    assert_eq!(b.count(|e| matches!(e, Event::Up { .. })), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_calls_that_cross_one_session_stays_and_both_ends_agree() {
    for _ in 0..6 {
        let mut mesh = Mesh::new(10);
        let a = mesh.start(A, "a1", &[]).await;
        let b = mesh.start(B, "b1", &[]).await;
        let all = members(&[(A, &[a.address]), (B, &[b.address])]);
        // Both get to know each other in the same moment, so both call at once.
        tokio::join!(a.tell(Command::Peers(all.clone())), b.tell(Command::Peers(all)));
        a.write(1, Some(summary(1, 1))).await;
        b.write(1, Some(summary(2, 2))).await;
        until("both know", || b.record(A, 1).is_some() && a.record(B, 1).is_some()).await;
        let deadline = std::time::Instant::now() + PATIENCE;
        let (at_a, at_b) = loop {
            let (at_a, at_b) = (a.status().await, b.status().await);
            let (one, other) = (&at_a.sites[&B], &at_b.sites[&A]);
            // One connection has one caller.
            if one.relay.is_some() && other.relay.is_some() && one.dialled != other.dialled {
                break (at_a, at_b);
            }
            assert!(std::time::Instant::now() < deadline, "{at_a:?} {at_b:?}");
        };
        assert!(at_a.sites[&B].sessions <= 4 && at_b.sites[&A].sessions <= 4, "{at_a:?} {at_b:?}");
        assert!(!at_a.duplicate && !at_b.duplicate);
    }
}
