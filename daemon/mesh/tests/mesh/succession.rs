//! Relays of one site with their feeds, and the choice between them: how long it takes until the next one is heard by another site.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bascule_core::site::lead::{Beat, Lead};
use bascule_core::site::summary::ServiceId;
use bascule_mesh::clock::Clock as _;
use bascule_mesh::feed::{Heard, Listener, Order, Server, Word, listen};
use bascule_mesh::state::{Command, Dial, Event};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::common::{A, B, Mesh, Node, Told, members, met};

/// A loan holds for so long (ADR 0021), and is said every second.
const VALID: Duration = Duration::from_secs(3);
const NAMES: [&str; 2] = ["a1", "a2"];

/// A relay, its feed, and what the daemon does between them.
struct Member {
    relay: Node,
    feed: JoinHandle<()>,
    orders: mpsc::Sender<Order>,
    driver: JoinHandle<()>,
    ear: JoinHandle<()>,
}

impl Member {
    async fn start(mesh: &mut Mesh, own: usize, nodes: TcpListener, other: SocketAddr, b: SocketAddr) -> Self {
        let dir = mesh.issue(A, NAMES[own]);
        let mut config = mesh.config(&dir, members(&[(B, &[b])]));
        config.leads = false;
        let relay = Node::start(config).await;
        let server = Server::new(dir.clone(), Duration::from_secs(5), mesh.clock.clone()).expect("certificates");
        let (orders, taken) = mpsc::channel(64);
        let feed = tokio::spawn(server.run(nodes, taken, |_, _| {}));
        let listener = Listener {
            relay: NAMES[1 - own].to_owned(),
            address: other,
            credentials: dir,
            clock: mesh.clock.clone(),
            dial: Dial::default(),
        };
        let (_counts, queue) = mpsc::channel(1);
        let (put, heard) = mpsc::channel(64);
        let ear = tokio::spawn(listen(listener, queue, async move |what| drop(put.send(what).await)));
        let driver = tokio::spawn(drive(own, mesh.clock.clone(), heard, relay.commands.clone(), orders.clone()));
        Self { relay, feed, orders, driver, ear }
    }

    /// As SIGKILL. Tasks that hold connections go with what they serve.
    async fn kill(self) {
        for task in [&self.driver, &self.ear, &self.feed] {
            task.abort();
        }
        self.relay.kill().await;
    }

    /// As SIGTERM: other sites first.
    async fn stop(self) {
        self.driver.abort();
        self.ear.abort();
        self.relay.tell(Command::Stop).await;
        self.relay.task.await.expect("it ends in order").expect("without an error");
        self.orders.send(Order::Stop).await.expect("it serves");
        self.feed.await.expect("it ends in order");
    }
}

async fn drive(
    own: usize,
    clock: Arc<crate::common::Fast>,
    mut heard: mpsc::Receiver<Heard>,
    commands: mpsc::Sender<Command>,
    orders: mpsc::Sender<Order>,
) {
    let other = NAMES[1 - own];
    let mut lead = Lead::new(Some(NAMES[own].to_owned()), &NAMES.map(str::to_owned), clock.now());
    let mut said = Beat::default();
    loop {
        let now = clock.now();
        lead.handle_expire(now);
        if lead.says() != said {
            said = lead.says();
            commands.send(Command::Lead(said.leads)).await.expect("the relay runs");
            orders.send(Order::Lead(said)).await.expect("the feed runs");
        }
        let wait = lead.poll_timeout(now).map_or(Duration::from_secs(1), |at| at.since(now));
        tokio::select! {
            Some(what) = heard.recv() => match what {
                Heard::Words(words) => for word in words {
                    if let Word::Beat(beat) = word {
                        lead.handle_beat(other, beat, clock.now());
                    }
                },
                Heard::Gone => lead.handle_gone(other, clock.now()),
                _ => {}
            },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn loans(told: &Mutex<Told>) -> usize {
    let told = told.lock().expect("nobody panics with it");
    told.events.iter().filter(|e| matches!(e, Event::Lend { from: B, .. })).count()
}

/// Waits until `relay` has been lent to `more` times, and gives the longest time from one loan to the next, from `last` on.
async fn lent(relay: &Arc<Mutex<Told>>, more: usize, mut last: Instant) -> (Duration, Instant) {
    let (from, mut known, mut longest) = (loans(relay), loans(relay), Duration::ZERO);
    let found = met(async || {
        if loans(relay) > known {
            known = loans(relay);
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        (known >= from + more).then_some(())
    });
    assert!(found.await.is_some(), "waited for a loan");
    (longest, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loan_outlives_the_relay_that_leads_by_the_next_ones_session() {
    for planned in [false, true] {
        let mut mesh = Mesh::new(1);
        let b = mesh.start(B, "b1", &[]).await;
        let nodes = [
            TcpListener::bind("127.0.0.1:0").await.expect("a port"),
            TcpListener::bind("127.0.0.1:0").await.expect("a port"),
        ];
        let at = nodes.each_ref().map(|nodes| nodes.local_addr().expect("its address"));
        let [first, second] = nodes;
        let first = Member::start(&mut mesh, 0, first, at[1], b.address).await;
        let second = Member::start(&mut mesh, 1, second, at[0], b.address).await;
        b.tell(Command::Peers(members(&[(A, &[first.relay.address, second.relay.address])]))).await;
        let commands = b.commands.clone();
        let lender = tokio::spawn(async move {
            let mut every = tokio::time::interval(Duration::from_secs(1));
            loop {
                every.tick().await;
                let lend = Command::Credit { to: A, service: ServiceId(7), amount: 5, lend: true };
                commands.send(lend).await.expect("it runs");
            }
        });
        let (_, last) = lent(&first.relay.told, 2, Instant::now()).await;
        assert_eq!(loans(&second.relay.told), 0, "the first by name leads");
        if planned {
            first.stop().await
        } else {
            first.kill().await
        }
        let (longest, _) = lent(&second.relay.told, 2, last).await;
        println!("{longest:?} from one loan to the next, planned {planned}");
        assert!(longest < VALID, "{longest:?} without a loan, planned {planned}");
        assert_eq!(b.count(|e| matches!(e, Event::DuplicateSite { .. })), 0);
        lender.abort();
    }
}
