//! The feed of a relay: who is told what, and who is not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bascule_core::site::demand::{Count, Rate};
use bascule_core::site::join::io::Fact;
use bascule_core::site::lead::Beat;
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_mesh::feed::{Heard, Listener, Order, Server, Status, Word, listen};
use bascule_mesh::state::Dial;
use bascule_mesh::tls::Refusal;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::common::proxy::Proxy;
use crate::common::{A, B, C, EPOCH, Mesh, met};

const WEB: ServiceId = ServiceId(7);

fn summary(ready: u16) -> Fact {
    let summary = Some(Summary { ready, expected: 4, ..Summary::default() });
    Fact::Summary { site: B, service: WEB, summary, age: Duration::ZERO }
}

/// A relay that has stood for long.
fn says(leads: bool) -> Beat {
    Beat { leads, ..Beat::default() }
}

/// What nodes have said, with their names.
type Said = Vec<(String, Vec<Count>)>;

struct Relay {
    orders: mpsc::Sender<Order>,
    address: SocketAddr,
    said: Arc<Mutex<Said>>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    async fn start(mesh: &mut Mesh) -> Self {
        Self::start_at(mesh, "127.0.0.1:0").await
    }

    async fn start_at(mesh: &mut Mesh, address: impl tokio::net::ToSocketAddrs) -> Self {
        let dir = mesh.issue(A, "r1");
        let server = Server::new(dir, Duration::from_millis(50), mesh.clock.clone()).expect("certificates");
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (orders, taken) = mpsc::channel(16);
        let said = Arc::<Mutex<Said>>::default();
        let put = Arc::clone(&said);
        let say = move |name, counts| put.lock().expect("nobody panics with it").push((name, counts));
        let task = tokio::spawn(server.run(listener, taken, say));
        Self { orders, address, said, task }
    }

    async fn tell(&self, order: Order) {
        self.orders.send(order).await.expect("it runs");
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) {
        let status = async || {
            let (ask, answer) = oneshot::channel();
            self.tell(Order::Status(ask)).await;
            wanted(&answer.await.expect("an answer")).then_some(())
        };
        assert!(met(status).await.is_some(), "waited until {what}");
    }

    async fn until_said(&self, node: &str, counts: &[Count]) {
        let said = || self.said.lock().expect("nobody panics with it");
        let found = met(async || said().iter().any(|(name, all)| name == node && all == counts).then_some(())).await;
        assert!(found.is_some(), "waited for {counts:?} of {node}: {:?}", said());
    }
}

struct Node {
    heard: Arc<Mutex<Vec<Heard>>>,
    counts: mpsc::Sender<Vec<Count>>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    /// A node with the certificates of a directory listens to a relay that it calls by this name.
    fn new(mesh: &Mesh, dir: std::path::PathBuf, name: &str, address: SocketAddr) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listener = Listener {
            relay: name.to_owned(),
            address,
            credentials: dir,
            clock: mesh.clock.clone(),
            dial: Dial::default(),
        };
        let put = Arc::clone(&heard);
        let (counts, queue) = mpsc::channel(256);
        let say = async move |what| put.lock().expect("nobody panics with it").push(what);
        let task = tokio::spawn(listen(listener, queue, say));
        Self { heard, counts, task }
    }

    async fn until(&self, what: &str, wanted: impl Fn(&Heard) -> bool) {
        let heard = || self.heard.lock().expect("nobody panics with it");
        let found = met(async || heard().iter().any(&wanted).then_some(())).await;
        assert!(found.is_some(), "waited until {what}: {:?}", heard());
    }

    async fn until_word(&self, what: &str, wanted: impl Fn(&Word) -> bool) {
        self.until(what, |heard| matches!(heard, Heard::Words(words) if words.iter().any(&wanted))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_the_site_are_told_all_there_is_and_what_comes_then() {
    let mut mesh = Mesh::new(1);
    let relay = Relay::start(&mut mesh).await;
    relay.tell(Order::Lead(says(true))).await;
    relay.tell(Order::Publish(Fact::Session { site: B, up: true })).await;
    relay.tell(Order::Publish(summary(4))).await;
    let dir = mesh.issue(A, "n2");
    let node = Node::new(&mesh, dir, "r1", relay.address);
    node.until_word("a beat", |w| *w == Word::Beat(says(true))).await;
    node.until_word("the session", |w| *w == Word::Fact(Fact::Session { site: B, up: true })).await;
    let of = |ready| move |w: &Word| matches!(w, Word::Fact(Fact::Summary { site: B, summary: Some(s), .. }) if s.ready == ready);
    node.until_word("the summary from before it called", of(4)).await;
    relay.tell(Order::Publish(summary(3))).await;
    node.until_word("news", of(3)).await;
    let reach = Fact::Reach { site: B, of: C, reached: false };
    relay.tell(Order::Publish(reach)).await;
    node.until_word("what B says of C", |w| *w == Word::Fact(reach)).await;
    relay.until("it is counted", |status| status.listeners == ["n2"]).await;
    // Who does not lead knows nothing that counts.
    relay.tell(Order::Lead(says(false))).await;
    node.until_word("the end of its lead", |w| *w == Word::Beat(says(false))).await;
    let late = mesh.issue(A, "n3");
    let late = Node::new(&mesh, late, "r1", relay.address);
    late.until_word("a beat", |w| *w == Word::Beat(says(false))).await;
    let facts = |h: &Heard| matches!(h, Heard::Words(words) if words.iter().any(|w| matches!(w, Word::Fact(_))));
    assert!(!late.heard.lock().expect("nobody panics with it").iter().any(facts));
    node.task.abort();
    relay.until("it is gone", |status| status.listeners == ["n3"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_sites_strangers_and_the_revoked_are_refused_and_counted() {
    let mut mesh = Mesh::new(1);
    let relay = Relay::start(&mut mesh).await;
    let foreign = mesh.issue(C, "m1");
    let foreign = Node::new(&mesh, foreign, "r1", relay.address);
    // It calls by the name of its own site, which this relay does not have.
    foreign.until("it refuses the relay", |h| matches!(h, Heard::Refused(Refusal::WrongName))).await;
    let mut others = Mesh::with(mesh.clock.clone());
    let stranger = others.issue(A, "n2");
    let stranger = Node::new(&mesh, stranger, "r1", relay.address);
    stranger.until("it refuses the relay", |h| matches!(h, Heard::Refused(Refusal::UnknownAuthority))).await;
    let misled = mesh.issue(A, "n4");
    let misled = Node::new(&mesh, misled, "r2", relay.address);
    misled.until("it is another relay", |h| matches!(h, Heard::Refused(Refusal::WrongName))).await;
    relay.until("they are counted", |status| status.sent_away.contains_key(&Refusal::Theirs)).await;

    let node = Node::new(&mesh, mesh.dir.path().join("1-n4"), "r1", relay.address);
    node.until_word("a beat", |w| matches!(w, Word::Beat(_))).await;
    let issued = mesh.authority.issued().iter().rfind(|one| one.relay == "n4").expect("issued").serial.clone();
    mesh.authority.revoke(&issued, EPOCH).expect("revoked");
    mesh.authority.export(EPOCH, &mesh.dir.path().join("1-r1")).expect("exported");
    relay.until("the revoked is let go", |status| status.sent_away.contains_key(&Refusal::Revoked)).await;
    node.until("it notices", |h| !matches!(h, Heard::Words(_))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_says_so_and_one_that_was_killed_is_missed_at_its_address() {
    let mut mesh = Mesh::new(1);
    let stops = |w: &Word| matches!(w, Word::Beat(Beat { stops: true, .. }));
    for killed in [false, true] {
        let relay = Relay::start(&mut mesh).await;
        let address = relay.address;
        let dir = mesh.issue(A, "n2");
        let node = Node::new(&mesh, dir, "r1", address);
        node.until_word("a beat", |w| matches!(w, Word::Beat(_))).await;
        if killed {
            relay.task.abort();
        } else {
            relay.tell(Order::Stop).await;
            node.until_word("its last word", stops).await;
        }
        node.until("nobody serves there", |h| *h == Heard::Gone).await;
        let heard = node.heard.lock().expect("nobody panics with it").clone();
        let last_words = heard.iter().filter(|h| matches!(h, Heard::Words(words) if words.iter().any(stops))).count();
        assert_eq!(last_words, usize::from(!killed), "{heard:?}");
        drop(relay);
        // It comes back, and waits for those who are there.
        node.heard.lock().expect("nobody panics with it").clear();
        let _relay = Relay::start_at(&mut mesh, address).await;
        node.until_word("the first beat", |w| *w == Word::Beat(Beat { waits: true, tells: true, ..Beat::default() }))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_connections_end_and_which_takes_new_ones_is_not_gone() {
    let mut mesh = Mesh::new(1);
    let relay = Relay::start(&mut mesh).await;
    let proxy = Proxy::start(relay.address).await;
    let dir = mesh.issue(A, "n2");
    let node = Node::new(&mesh, dir, "r1", proxy.address);
    let beat = |w: &Word| matches!(w, Word::Beat(_));
    for _ in 0..3 {
        node.until_word("a beat", beat).await;
        node.heard.lock().expect("nobody panics with it").clear();
        proxy.cut();
        node.until("it is noticed", |h| *h == Heard::Lost).await;
        node.until_word("a beat again", beat).await;
        let gone = node.heard.lock().expect("nobody panics with it").contains(&Heard::Gone);
        assert!(!gone, "it has taken every call");
    }
}

const fn count(rate: u64) -> Count {
    Count { service: WEB, rate: Rate(rate) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_say_what_they_count_on_the_same_connection() {
    let mut mesh = Mesh::new(1);
    let relay = Relay::start(&mut mesh).await;
    let nodes = ["n2", "n3"].map(|name| {
        let dir = mesh.issue(A, name);
        Node::new(&mesh, dir, "r1", relay.address)
    });
    for node in &nodes {
        node.until_word("a beat", |w| matches!(w, Word::Beat(_))).await;
    }
    // More than a frame holds: all of it arrives, in parts.
    let many: Vec<Count> = (0..300).map(|n| Count { service: ServiceId(n), rate: Rate(1000) }).collect();
    nodes[0].counts.send(many.clone()).await.expect("it listens");
    nodes[1].counts.send(vec![count(41_500)]).await.expect("it listens");
    relay.until_said("n2", &many[..256]).await;
    relay.until_said("n2", &many[256..]).await;
    relay.until_said("n3", &[count(41_500)]).await;
    relay.until("frames are counted", |status| status.said == 3 && status.sent_away.is_empty()).await;
    // And what it hears is no worse for it.
    relay.tell(Order::Lead(says(true))).await;
    relay.tell(Order::Publish(Fact::Demand { service: WEB, rate: Rate(300_000) })).await;
    nodes[0].until_word("the sum", |w| *w == Word::Fact(Fact::Demand { service: WEB, rate: Rate(300_000) })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_nonsense_or_too_much_is_let_go_and_counted_and_the_others_stay() {
    let mut mesh = Mesh::new(1);
    let relay = Relay::start(&mut mesh).await;
    let [good, wrong, loud] = ["n2", "n3", "n4"].map(|name| {
        let dir = mesh.issue(A, name);
        Node::new(&mesh, dir, "r1", relay.address)
    });
    for node in [&good, &wrong, &loud] {
        node.until_word("a beat", |w| matches!(w, Word::Beat(_))).await;
    }
    wrong.counts.send(vec![count(Rate::MOST.0 + 1)]).await.expect("it listens");
    relay.until("nonsense is counted", |status| status.sent_away.get(&Refusal::Protocol) == Some(&1)).await;
    wrong.until("it notices", |h| !matches!(h, Heard::Words(_))).await;
    for _ in 0..200 {
        loud.counts.send(vec![count(1)]).await.expect("it listens");
    }
    relay.until("a flood is counted", |status| status.sent_away.get(&Refusal::Flood) >= Some(&1)).await;
    loud.until("it notices", |h| !matches!(h, Heard::Words(_))).await;
    good.counts.send(vec![count(7)]).await.expect("it listens");
    relay.until_said("n2", &[count(7)]).await;
    assert!(good.heard.lock().expect("nobody panics with it").iter().all(|h| matches!(h, Heard::Words(_))));
}
