//! Probers over a proxy that loses, delays and swallows what is large.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bascule_core::site::path::io::{Carriage, Config, Direction, Event, Silence};
use bascule_core::wire::site::PairKeys;
use bascule_mesh::clock::Clock;
use bascule_mesh::path::{Command, PathConfig, PathStatus, Prober, open};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

use crate::common::{Fast, met};

/// One direction of the proxy.
struct Way {
    /// Of 1,000.
    lost: AtomicU32,
    /// Bytes of an IP packet that get through.
    largest: AtomicU32,
    delay_ms: AtomicU64,
    seed: AtomicU64,
}

impl Way {
    fn new(seed: u64) -> Arc<Self> {
        let new = |n| AtomicU32::new(n);
        Arc::new(Self { lost: new(0), largest: new(9000), delay_ms: AtomicU64::new(0), seed: AtomicU64::new(seed) })
    }

    fn passes(&self, len: usize) -> bool {
        let mut seed = self.seed.load(Ordering::Relaxed);
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        self.seed.store(seed, Ordering::Relaxed);
        let large = len + 28 > self.largest.load(Ordering::Relaxed) as usize;
        !large && seed % 1000 >= u64::from(self.lost.load(Ordering::Relaxed))
    }

    async fn carry(self: Arc<Self>, from: Arc<UdpSocket>, to: Arc<UdpSocket>, at: SocketAddr) {
        let mut buffer = vec![0; 10_000];
        loop {
            let Ok(len) = from.recv(&mut buffer).await else { continue };
            if !self.passes(len) {
                continue;
            }
            let (datagram, to) = (buffer[..len].to_vec(), Arc::clone(&to));
            let delay = Duration::from_millis(self.delay_ms.load(Ordering::Relaxed));
            tokio::spawn(async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                // Nobody there yet: lost.
                let _lost = to.send_to(&datagram, at).await;
            });
        }
    }
}

/// A prober of a site.
struct End {
    commands: mpsc::Sender<Command>,
    events: Arc<Mutex<Vec<(std::time::Instant, Event)>>>,
}

impl End {
    async fn status(&self) -> PathStatus {
        let (ask, answer) = oneshot::channel();
        self.commands.send(Command::Status(ask)).await.expect("it runs");
        answer.await.expect("an answer")
    }

    async fn until(&self, what: &str, wanted: impl Fn(&PathStatus) -> bool) -> PathStatus {
        match met(async || Some(self.status().await).filter(|status| wanted(status))).await {
            Some(status) => status,
            None => {
                let events = self.events.lock().expect("nobody panics with it").clone();
                panic!("waited until {what}: {:?} {events:?}", self.status().await);
            }
        }
    }

    fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.lock().expect("nobody panics with it").iter().filter(|(_, e)| wanted(e)).count()
    }
}

struct Pair {
    ends: [End; 2],
    ways: [Arc<Way>; 2],
    /// Where the first end's first flow listens, and what it hears.
    first: (SocketAddr, SocketAddr),
}

const FLOWS: u8 = 6;
const SECRET: &[u8] = b"a pair of sites, its secret";

fn keys(here: u8, there: u8, secrets: &[&[u8]]) -> PairKeys {
    PairKeys::new(here, there, secrets.iter().map(|s| s.to_vec()).collect())
}

/// Two ends, each flow through sockets of the proxy of its own. `multiplier`: intervals of silence that are down.
async fn pair(speed: u32, multiplier: u8) -> Pair {
    let clock: Arc<dyn Clock> = Fast::new(speed);
    let ways = [Way::new(0x1234_5678_9abc_def1), Way::new(0x0fed_cba9_8765_4321)];
    let (mut flows, mut first) = ([Vec::new(), Vec::new()], None);
    for _ in 0..FLOWS {
        let free = || "127.0.0.1:0".parse().expect("an address");
        let bind = async || Arc::new(UdpSocket::bind::<SocketAddr>(free()).await.expect("a port"));
        let (left, right) = (bind().await, bind().await);
        let address = |socket: &UdpSocket| socket.local_addr().expect("its address");
        let a = open(free(), address(&left)).expect("a flow");
        let b = open(free(), address(&right)).expect("a flow");
        let (at_a, at_b) = (address(&a.socket), address(&b.socket));
        first = first.or(Some((at_a, address(&left))));
        tokio::spawn(Arc::clone(&ways[0]).carry(Arc::clone(&left), Arc::clone(&right), at_b));
        tokio::spawn(Arc::clone(&ways[1]).carry(right, left, at_a));
        flows[0].push(a);
        flows[1].push(b);
    }
    let [at_a, at_b] = flows;
    let end = |here: u8, there: u8, flows| {
        let mut machine = Config::new(keys(here, there, &[SECRET]));
        machine.multiplier = multiplier;
        let run = u32::from(here) * 1000 + 7;
        let config = PathConfig { machine, flows, run, seed: u64::from(here), clock: Arc::clone(&clock) };
        let (commands, received) = mpsc::channel(8);
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let say = move |event| heard.lock().expect("nobody panics with it").push((std::time::Instant::now(), event));
        tokio::spawn(Prober::new(config).run(received, say));
        End { commands, events }
    };
    Pair { ends: [end(1, 2, at_a), end(2, 1, at_b)], ways, first: first.expect("flows") }
}

impl Pair {
    async fn up(&self) {
        for end in &self.ends {
            end.until("the path is up", |s| s.path.carriage == Carriage::Up && s.path.flows_up == FLOWS).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_silence_is_seen_at_both_ends_with_its_direction() {
    let pair = pair(1, 10).await;
    pair.up().await;
    pair.ways[0].lost.store(1000, Ordering::Relaxed);
    let down = |s: &PathStatus| s.path.carriage == Carriage::Down(Silence::In);
    let silent = pair.ends[1].until("B hears nothing", down).await;
    assert!(silent.silent_since.is_some(), "the state tells when it began: {silent:?}");
    pair.ends[0].until("A hears that it is not heard", |s| matches!(s.path.carriage, Carriage::Down(_))).await;
    let directions: Vec<Event> =
        pair.ends[0].events.lock().expect("nobody panics with it").iter().map(|(_, e)| *e).collect();
    assert!(
        directions.iter().any(|e| matches!(e, Event::Down { silence: Silence::Out, .. })),
        "B is heard, so it is A's own way that is cut: {directions:?}"
    );
    pair.ways[0].lost.store(0, Ordering::Relaxed);
    // 20 good slots of half a second.
    for end in &pair.ends {
        let back = end.until("the path is back", |s| s.path.carriage == Carriage::Up).await;
        assert_eq!(back.silent_since, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_one_direction_is_a_brownout_of_that_direction() {
    let pair = pair(2, 30).await;
    pair.up().await;
    pair.ways[1].lost.store(150, Ordering::Relaxed);
    let at_a = pair.ends[0].until("A sees it come in", |s| s.path.brownout_in.is_some()).await;
    let at_b = pair.ends[1].until("B sees it go out", |s| s.path.brownout_out.is_some()).await;
    assert!(at_a.path.loss_in > 0.01 && at_b.path.loss_out > 0.01, "{at_a:?} {at_b:?}");
    let other = |e: &Event, direction| matches!(e, Event::Brownout { direction: d, .. } if *d == direction);
    assert_eq!(pair.ends[0].count(|e| other(e, Direction::Out)), 0);
    assert_eq!(pair.ends[1].count(|e| other(e, Direction::In)), 0);
    assert!(pair.ends.iter().all(|end| end.count(|e| matches!(e, Event::Down { .. })) == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_trip_is_measured_and_its_inflation_seen() {
    let pair = pair(1, 30).await;
    let delay = |ms| pair.ways.iter().for_each(|way| way.delay_ms.store(ms, Ordering::Relaxed));
    delay(10);
    pair.up().await;
    let status = pair.ends[0].until("a round trip is known", |s| s.path.rtt.is_some()).await;
    let rtt = status.path.rtt.expect("known");
    // Two ways of 10 ms; beside them what a busy machine adds.
    assert!((0.020..0.120).contains(&rtt), "{rtt}");
    delay(150);
    pair.ends[0].until("it is inflated", |s| s.path.rtt_factor > 1.5).await;
    assert_eq!(pair.ends[0].count(|e| matches!(e, Event::Inflated { .. })), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hole_for_large_packets_is_measured_within_its_bound() {
    // As fast as leaves a busy machine a second between what the machine needs and the bound.
    let speed = 2;
    let pair = pair(speed, 60).await;
    pair.up().await;
    for end in &pair.ends {
        // The check after coming up has found the size of the link.
        end.until("large ones were sent", |s| s.path.mtu == 1500).await;
    }
    pair.ways[0].largest.store(1400, Ordering::Relaxed);
    let since = std::time::Instant::now();
    let found = pair.ends[0].until("A has measured the hole", |s| s.path.mtu != 1500).await;
    assert_eq!(found.path.mtu, 1400);
    let took = since.elapsed() * speed;
    println!("black hole above 1400 bytes found after {:.1} s of the machine's time", took.as_secs_f64());
    // 30 s until the next check, 4 s for the search, one for a busy machine (F13).
    assert!(took <= Duration::from_secs(35), "{took:?}");
    for end in &pair.ends {
        assert_eq!(end.count(|e| matches!(e, Event::Down { .. } | Event::Brownout { .. })), 0, "small ones pass");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_replaced_under_probes_and_strangers_are_counted() {
    let pair = pair(1, 20).await;
    pair.up().await;
    let tell = async |end: usize, secrets: &[&[u8]]| {
        let (here, there) = if end == 0 { (1, 2) } else { (2, 1) };
        pair.ends[end].commands.send(Command::Keys(keys(here, there, secrets))).await.expect("it runs");
    };
    let new: &[u8] = b"another secret";
    // Both know the new one before anybody signs with it; the old one goes last.
    for secrets in [[SECRET, new], [new, SECRET]] {
        tell(0, &secrets).await;
        tell(1, &secrets).await;
        // What was signed before has arrived: five more of each flow came after it.
        for end in &pair.ends {
            let before = end.status().await.counters.received;
            end.until("probes go on", |s| s.counters.received > before + 30).await;
        }
    }
    tell(0, &[new]).await;
    tell(1, &[new]).await;
    let before = pair.ends[1].status().await;
    pair.ends[1].until("probes go on", |s| s.counters.received > before.counters.received + 60).await;
    for end in &pair.ends {
        let status = end.status().await;
        assert_eq!((status.path.carriage, status.path.refused.tag), (Carriage::Up, 0), "{status:?}");
        assert_eq!(end.count(|e| matches!(e, Event::Down { .. })), 0);
    }
    // From the address of the other end, which alone gets to the socket: signed with an old key, and noise.
    let (to, from) = pair.first;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    for _ in 0..50 {
        socket.send_to(&[0x10; 44], to).expect("sent");
    }
    assert_eq!(pair.ends[0].status().await.path.refused.tag, 0, "another address does not get to the socket: {from}");
    // Whoever forges the address too is still without the key. The proxy's own socket stands for that.
    tell(1, &[SECRET]).await;
    pair.ends[0].until("an old key is no key", |s| s.path.refused.tag > 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_a_flow_is_dropped_unread_and_the_path_stays() {
    // The flooded end's only flow comes from a socket of this test, as if its peer had gone mad.
    let clock: Arc<dyn Clock> = Fast::new(1);
    let mad = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let flow =
        open("127.0.0.1:0".parse().expect("an address"), mad.local_addr().expect("its address")).expect("a flow");
    let to = flow.socket.local_addr().expect("its address");
    let machine = Config::new(keys(1, 2, &[SECRET]));
    let config = PathConfig { machine, flows: vec![flow], run: 5, seed: 5, clock };
    let (commands, received) = mpsc::channel(8);
    tokio::spawn(Prober::new(config).run(received, |_| {}));
    let end = End { commands, events: Arc::default() };
    let mut sent = 0u64;
    let status = loop {
        for _ in 0..2000 {
            // A full queue of the receiver loses them, as it would any.
            sent += u64::from(mad.send_to(&[7; 44], to).is_ok());
        }
        let status = end.status().await;
        if (status.counters.flooded > 1000 && status.counters.sent > 3) || sent > 20_000_000 {
            break status;
        }
    };
    assert!(status.counters.flooded > 1000, "{status:?} of {sent}");
    assert!(status.path.refused.malformed + status.path.refused.tag > 0, "those within the rate were looked at");
    assert!(status.counters.sent > 3, "and it probes all the same: {status:?}");
}
