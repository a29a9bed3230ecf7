//! What the state of a site costs on the wire (F19; issue 6, Shows 6), counted by the kernel: a namespace whose loopback carries nothing else.

use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::state::record::Body;
use bascule_core::site::summary::Summary;
use bascule_mesh::state::Command;

use crate::common::{A, B, Fast, Mesh, Node, members, until};

/// Of 950 services with twenty endpoints and 50 with one, as the simulator has it (`tests/sim/src/sites/churn.rs`).
const LARGE: u32 = 950;
const SERVICES: u32 = 1000;
const CHANGES: u64 = 100_000;
/// Steps of a minute.
const STEPS: u64 = 6000;
const STEP: Duration = Duration::from_millis(10);

/// Bytes that the loopback of this thread's namespace has sent, link header included. What one end sends the other receives: counted once.
fn wire() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").expect("a namespace has devices");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("lo:")).expect("a loopback");
    line.split_whitespace().nth(8).and_then(|n| n.parse().ok()).expect("its bytes")
}

fn body(ready: u16, expected: u16) -> Option<Body> {
    let capacity = u32::from(ready) * 100;
    Some(Body::Service(Summary { ready, expected, draining: false, capacity, demand: 800 }))
}

/// One minute of the machines' time, in steps of 10 ms; what was written in a step is with the relay before the next.
async fn minute(clock: Arc<Fast>, a: &Node, b: &Node) -> f64 {
    let endpoints = |id: u32| if id < LARGE { 20u16 } else { 1 };
    let mut ready: Vec<Vec<bool>> = (0..SERVICES).map(|id| vec![true; usize::from(endpoints(id))]).collect();
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let (before, mut made) = (wire(), 0u64);
    for step in 1..=STEPS {
        clock.step(STEP);
        while made < CHANGES * step / STEPS {
            made += 1;
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let at = seed % u64::from(LARGE * 20 + SERVICES - LARGE);
            let (id, endpoint) =
                if at < u64::from(LARGE * 20) { (at / 20, at % 20) } else { (at - u64::from(LARGE * 19), 0) };
            let id = u32::try_from(id).expect("a service");
            let slots = &mut ready[id as usize];
            let slot = &mut slots[usize::try_from(endpoint).expect("an endpoint")];
            *slot = !*slot;
            let up = u16::try_from(slots.iter().filter(|up| **up).count()).expect("few");
            a.write(id, body(up, endpoints(id))).await;
        }
        // Both have had their turn, as the answer comes after everything that was told before, and each has read what the other one sent.
        for (one, (here, other), there) in [(a, (A, b), B), (b, (B, a), A)] {
            let sent = one.status().await.sites[&there].sent;
            other.until("what was sent is read", |status| status.sites[&here].received >= sent).await;
        }
    }
    let bytes = wire() - before;
    // And it was not for nothing: the peer is near the truth.
    let off = |id: u32| {
        let truth = ready[id as usize].iter().filter(|up| **up).count();
        let Some(Body::Service(known)) = b.record(A, id) else { return true };
        truth.abs_diff(usize::from(known.ready)) * 4 > ready[id as usize].len().max(8)
    };
    let astray = (0..SERVICES).filter(|id| off(*id)).count();
    assert!(astray <= 100, "{astray} of {SERVICES} services are off by more than a quarter");
    bytes as f64 / 60.0
}

#[test]
fn a_hundred_thousand_changes_a_minute_are_two_kilobytes_a_second_on_the_wire() {
    let test = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace: tests run as root");
        let up = Process::new("ip").args(["link", "set", "lo", "up", "mtu", "1500"]).status().expect("iproute2");
        assert!(up.success());
        // Every segment is acknowledged by itself, at once: the most that acknowledgements can cost.
        for (what, scope) in [("127.0.0.0/8", "host"), ("127.0.0.1", "host")] {
            let route =
                ["route", "replace", "table", "local", "local", what, "dev", "lo", "proto", "kernel", "scope", scope];
            let more = ["src", "127.0.0.1", "quickack", "1"];
            assert!(Process::new("ip").args(route).args(more).status().expect("iproute2").success());
        }
        // All sockets are made by this thread, in its namespace.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let clock = Fast::stepped();
            let mut mesh = Mesh::with(Arc::clone(&clock));
            let a = mesh.start(A, "a1", &[]).await;
            let b = mesh.start(B, "b1", &[(A, &[a.address])]).await;
            a.tell(Command::Peers(members(&[(B, &[])]))).await;
            for id in 0..SERVICES {
                let endpoints = if id < LARGE { 20 } else { 1 };
                a.write(id, body(endpoints, endpoints)).await;
            }
            let known = || {
                clock.step(STEP);
                b.records(A).len() == SERVICES as usize
            };
            until("B knows all", known).await;
            let rate = minute(Arc::clone(&clock), &a, &b).await;
            println!("{CHANGES} changes in a minute: {rate:.0} bytes a second, both ways, headers and acknowledgements included");
            assert!(rate > 200.0 && rate <= 2000.0, "{rate} bytes a second");
        });
    };
    std::thread::spawn(test).join().expect("it holds");
}
