//! The feed of a relay: who is told what, and who is not.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bascule_core::site::join::io::Fact;
use bascule_core::site::summary::{ServiceId, Summary};
use bascule_mesh::feed::{Heard, Listener, Order, Server, Status, Word, listen};
use bascule_mesh::state::Dial;
use bascule_mesh::tls::Refusal;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::common::{A, B, C, EPOCH, Mesh, met};

const WEB: ServiceId = ServiceId(7);

fn summary(ready: u16) -> Fact {
    let summary = Some(Summary { ready, expected: 4, ..Summary::default() });
    Fact::Summary { site: B, service: WEB, summary, age: Duration::ZERO }
}

struct Relay {
    orders: mpsc::Sender<Order>,
    address: SocketAddr,
}

impl Relay {
    async fn start(mesh: &mut Mesh) -> Self {
        let dir = mesh.issue(A, "r1");
        let server = Server::new(dir, Duration::from_millis(50), mesh.clock.clone()).expect("certificates");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (orders, taken) = mpsc::channel(16);
        tokio::spawn(server.run(listener, taken));
        Self { orders, address }
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
}

struct Node {
    heard: Arc<Mutex<Vec<Heard>>>,
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
        let task =
            tokio::spawn(listen(listener, async move |what| put.lock().expect("nobody panics with it").push(what)));
        Self { heard, task }
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
    relay.tell(Order::Lead(true)).await;
    relay.tell(Order::Publish(Fact::Session { site: B, up: true })).await;
    relay.tell(Order::Publish(summary(4))).await;
    let dir = mesh.issue(A, "n2");
    let node = Node::new(&mesh, dir, "r1", relay.address);
    node.until_word("a beat", |w| *w == Word::Beat { leads: true }).await;
    node.until_word("the session", |w| *w == Word::Fact(Fact::Session { site: B, up: true })).await;
    let of = |ready| move |w: &Word| matches!(w, Word::Fact(Fact::Summary { site: B, summary: Some(s), .. }) if s.ready == ready);
    node.until_word("the summary from before it called", of(4)).await;
    relay.tell(Order::Publish(summary(3))).await;
    node.until_word("news", of(3)).await;
    relay.until("it is counted", |status| status.listeners == ["n2"]).await;
    // Who does not lead knows nothing that counts.
    relay.tell(Order::Lead(false)).await;
    node.until_word("the end of its lead", |w| *w == Word::Beat { leads: false }).await;
    let late = mesh.issue(A, "n3");
    let late = Node::new(&mesh, late, "r1", relay.address);
    late.until_word("a beat", |w| *w == Word::Beat { leads: false }).await;
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
    node.until_word("a beat", |w| matches!(w, Word::Beat { .. })).await;
    let issued = mesh.authority.issued().iter().rfind(|one| one.relay == "n4").expect("issued").serial.clone();
    mesh.authority.revoke(&issued, EPOCH).expect("revoked");
    mesh.authority.export(EPOCH, &mesh.dir.path().join("1-r1")).expect("exported");
    relay.until("the revoked is let go", |status| status.sent_away.contains_key(&Refusal::Revoked)).await;
    node.until("it notices", |h| !matches!(h, Heard::Words(_))).await;
}
