//! The elector against an API server that answers 401, 409, 429 and 5xx, that hangs, that carries out and never says so.
//!
//! Nothing here asserts how fast something happens, but that it happens, in which order, and never too early.

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use axum::http::Method;
use bascule_core::election::lease::kube::KubeConfig;
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{CloseReason, Command, Condition, Word};
use bascule_core::types::Term;
use bascule_k8s::{Access, Elector, ElectorConfig, LeaseName};
use common::PATIENCE;
use serde_json::{Value, json};
use server::{Mood, Server};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);

fn clock() -> bascule_core::time::Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    let since = START.get_or_init(Instant::now).elapsed();
    bascule_core::time::Instant::from_nanos(u64::try_from(since.as_nanos()).expect("a test is short"))
}

fn timing(duration: u32) -> Timing {
    Timing::kubernetes(SECOND * duration, SECOND * duration * 2 / 3, SECOND * duration / 10).expect("good times")
}

/// A running elector.
struct Node {
    commands: mpsc::Sender<Command>,
    words: mpsc::UnboundedReceiver<Word>,
    task: JoinHandle<()>,
}

impl Node {
    fn start(server: &Server, identity: &str, duration: u32) -> Self {
        let timing = timing(duration);
        let machine = KubeConfig {
            identity: identity.to_owned(),
            instance: format!("boot-of-{identity}"),
            timing,
            seed: Some(7),
            term: Term(0),
        };
        let lease = LeaseName { namespace: "kube-system".to_owned(), name: "lock".to_owned() };
        let access = Access::Kubeconfig(server.kubeconfig());
        let (commands, received) = mpsc::channel(8);
        let (said, words) = mpsc::unbounded_channel();
        let elector = Elector::new(ElectorConfig { access, lease, machine, timing, clock });
        let task = tokio::spawn(elector.run(received, move |word| said.send(word).unwrap_or(())));
        Self { commands, words, task }
    }

    /// The next word that `wanted` takes; the others are passed over.
    async fn hear<T>(&mut self, what: &str, mut wanted: impl FnMut(&Word) -> Option<T>) -> T {
        let hear = async {
            loop {
                let word = self.words.recv().await.expect("the elector runs");
                if let Some(found) = wanted(&word) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.unwrap_or_else(|_| panic!("waited for {what}"))
    }

    async fn claim(&mut self) -> (Term, u64) {
        self.hear("a claim", |word| match word {
            Word::Claim { term, epoch, .. } => Some((*term, *epoch)),
            _ => None,
        })
        .await
    }

    async fn extension(&mut self) -> bascule_core::time::Instant {
        self.hear("an extension", |word| match word {
            Word::Extend { deadline, .. } => Some(*deadline),
            _ => None,
        })
        .await
    }

    async fn close(&mut self) -> (Term, CloseReason) {
        self.hear("a close", |word| match word {
            Word::Close { term, reason } => Some((*term, *reason)),
            _ => None,
        })
        .await
    }

    /// What the server is said to say when the condition becomes this one.
    async fn condition(&mut self, wanted: Condition) -> String {
        self.hear(&format!("{wanted:?}"), |word| match word {
            Word::Condition { condition, detail } if *condition == wanted => Some(detail.clone().unwrap_or_default()),
            _ => None,
        })
        .await
    }

    /// Stops it, whether it owns or not.
    async fn stop(mut self) {
        self.tell(Command::Stop).await;
        while let Some(word) = self.words.recv().await {
            if let Word::Close { term, .. } = word {
                self.tell(Command::Closed(term)).await;
            }
        }
        self.end().await;
    }

    /// Stops it while it owns by this claim, and by no other.
    async fn stop_owner(mut self, term: Term) {
        self.tell(Command::Stop).await;
        assert_eq!(self.close().await, (term, CloseReason::Stopped));
        self.tell(Command::Closed(term)).await;
        self.end().await;
    }

    async fn tell(&self, command: Command) {
        self.commands.send(command).await.expect("the elector runs");
    }

    async fn end(self) {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("it ends when it is told to").expect("it does not panic");
    }
}

/// As kube-vip writes it: the bare name of the node, nothing of ours.
fn foreign(lease: &mut Value, holder: &str, renewals: u32) {
    lease["spec"] = json!({"holderIdentity": holder, "leaseDurationSeconds": 3, "leaseTransitions": 4,
        "acquireTime": "2026-01-01T00:00:00.000000Z", "renewTime": format!("2026-01-01T00:00:{renewals:02}.000000Z")});
}

#[tokio::test]
async fn a_lone_node_claims_renews_and_releases() {
    let server = Server::start().await;
    server.free();
    let mut node = Node::start(&server, "n1", 9);
    let (_, epoch) = node.claim().await;
    let (first, second) = (node.extension().await, node.extension().await);
    assert!(second > first, "each proof counts further");
    let spec = server.spec();
    assert_eq!((spec["holderIdentity"].as_str(), spec["leaseDurationSeconds"].as_u64()), (Some("n1"), Some(9)));
    assert_eq!(spec["leaseTransitions"].as_u64(), Some(epoch));
    let note = server.lock().lease.clone().unwrap()["metadata"]["annotations"]["bascule.dev/holder-instance"].clone();
    assert_eq!(note.as_str(), Some("boot-of-n1"));
    // Nothing is released before the driver says that all is closed.
    node.tell(Command::Stop).await;
    let (term, reason) = node.close().await;
    assert_eq!((reason, server.holder()), (CloseReason::Stopped, "n1".to_owned()));
    node.tell(Command::Closed(term)).await;
    node.end().await;
    assert_eq!(server.holder(), "");
}

#[tokio::test]
async fn a_foreign_holder_is_respected_until_it_stops_renewing() {
    let server = Server::start().await;
    server.write(|lease| foreign(lease, "cp2", 0));
    let mut node = Node::start(&server, "n1", 3);
    node.hear("the holder's name", |word| (*word == Word::Holder(Some("cp2".to_owned()))).then_some(())).await;
    let started = Instant::now();
    let (mut renewal, mut last) = (0, started);
    // Half as long again as that lease lasts, at the pace of a holder.
    let mut pace = tokio::time::interval(Duration::from_millis(300));
    while started.elapsed() < SECOND * 9 / 2 {
        renewal += 1;
        pace.tick().await;
        last = Instant::now();
        server.write(|lease| {
            foreign(lease, "cp2", renewal);
            lease["metadata"]["labels"] = json!({"kept": "yes"});
        });
    }
    assert!(server.lock().seen.iter().all(|(_, method)| *method == Method::GET), "nobody wrote but the holder");
    let (_, epoch) = node.claim().await;
    assert!(last.elapsed() >= SECOND * 3, "{:?} after the last renewal of a lease of 3 s", last.elapsed());
    assert_eq!((epoch, server.holder().as_str()), (5, "n1"));
    assert_eq!(server.lock().lease.as_ref().unwrap()["metadata"]["labels"]["kept"], "yes");
    node.stop().await;
}

#[tokio::test]
async fn a_release_is_seen_by_the_watch() {
    let server = Server::start().await;
    server.write(|lease| {
        foreign(lease, "cp2", 0);
        lease["spec"]["leaseDurationSeconds"] = json!(3600);
    });
    // Without the watch it would look again in an hour.
    let mut node = Node::start(&server, "n1", 3600);
    server.until("it watches", || server.lock().watches == 1).await;
    server.write(|lease| {
        lease["spec"]["holderIdentity"] = json!("");
        lease["spec"]["leaseDurationSeconds"] = json!(1);
    });
    node.claim().await;
    node.stop().await;
}

#[tokio::test]
async fn a_watch_that_ends_is_followed_by_a_look_and_another() {
    let server = Server::start().await;
    server.write(|lease| foreign(lease, "cp2", 0));
    server.write(|lease| lease["spec"]["leaseDurationSeconds"] = json!(3600));
    let node = Node::start(&server, "n1", 3);
    for round in 1..4 {
        server.until("it watches", || server.lock().watches == round).await;
        server.cut_watches();
    }
    server.until("it watches anew", || server.lock().watches >= 4).await;
    assert!(server.lock().seen.iter().all(|(_, method)| *method == Method::GET));
    node.stop().await;
}

#[tokio::test]
async fn a_conflict_is_read_and_written_again() {
    let server = Server::start().await;
    server.free();
    let mut node = Node::start(&server, "n1", 9);
    let (term, _) = node.claim().await;
    // Somebody labels it again and again: every other renewal names an old version.
    for round in 0..10 {
        server.write(|lease| lease["metadata"]["labels"] = json!({"round": round.to_string()}));
        node.extension().await;
    }
    assert_eq!(server.lock().lease.as_ref().unwrap()["metadata"]["labels"]["round"], "9");
    // It was one claim all the time.
    node.stop_owner(term).await;
}

#[tokio::test]
async fn a_lease_that_names_another_is_lost() {
    let server = Server::start().await;
    server.free();
    let mut node = Node::start(&server, "n1", 9);
    let (term, _) = node.claim().await;
    server.write(|lease| lease["spec"]["holderIdentity"] = json!("thief"));
    assert_eq!(node.close().await, (term, CloseReason::Lost));
    node.stop().await;
    assert_eq!(server.holder(), "thief", "nothing of another is released");
}

#[tokio::test]
async fn patience_is_kept_when_it_is_asked_for() {
    let server = Server::start().await;
    server.set_mood(Mood::Throttle(2));
    let mut node = Node::start(&server, "n1", 3);
    let said = node.condition(Condition::Throttled).await;
    assert!(said.contains("Too many requests"), "{said}");
    server.until("it asks again", || server.lock().seen.len() >= 3).await;
    let seen: Vec<Instant> = server.lock().seen.iter().map(|(at, _)| *at).collect();
    for pair in seen.windows(2) {
        assert!(pair[1] - pair[0] >= SECOND * 2, "asked again after {:?}", pair[1] - pair[0]);
    }
    server.set_mood(Mood::Well);
    node.claim().await;
    node.stop().await;
}

#[tokio::test]
async fn errors_of_the_server_cost_the_claim_at_its_deadline_and_it_comes_back() {
    let server = Server::start().await;
    server.free();
    let mut node = Node::start(&server, "n1", 3);
    let (term, epoch) = node.claim().await;
    server.set_mood(Mood::Status(503));
    let said = node.condition(Condition::Unreachable).await;
    assert!(said.contains("503") && said.contains("as the test wants it"), "{said}");
    assert_eq!(node.close().await, (term, CloseReason::Expired));
    server.set_mood(Mood::Well);
    let again = node.claim().await;
    assert_eq!(again, (Term(term.0 + 1), epoch + 1), "a claim of its own");
    node.stop().await;
}

/// The claim ends at its deadline, not before; a server that is well again is asked by a fresh connection, and gives a claim of its own.
async fn expires_and_comes_back(mood: Mood) {
    let server = Server::start().await;
    server.free();
    let mut node = Node::start(&server, "n1", 3);
    let (term, epoch) = node.claim().await;
    let mut deadline = node.extension().await;
    server.set_mood(mood);
    let asked = server.lock().seen.len();
    let (closed, reason, at) = node
        .hear("a close", |word| match word {
            Word::Extend { deadline: later, .. } => {
                deadline = *later;
                None
            }
            Word::Close { term, reason } => Some((*term, *reason, clock())),
            _ => None,
        })
        .await;
    assert_eq!((closed, reason), (term, CloseReason::Expired));
    assert!(at >= deadline, "it closes {:?} before its deadline", deadline.since(at));
    assert!(server.lock().seen.len() > asked, "it tried");
    server.set_mood(Mood::Well);
    let again = node.claim().await;
    assert_eq!(again.0, Term(term.0 + 1));
    assert!(again.1 > epoch);
    node.stop().await;
}

#[tokio::test]
async fn a_server_that_hangs_costs_the_claim_at_its_deadline_and_it_comes_back() {
    expires_and_comes_back(Mood::Hang).await;
}

#[tokio::test]
async fn answers_that_are_lost_cost_the_claim_at_its_deadline_and_it_comes_back() {
    expires_and_comes_back(Mood::Swallow).await;
}

#[tokio::test]
async fn connections_that_break_cost_the_claim_at_its_deadline_and_it_comes_back() {
    expires_and_comes_back(Mood::Break).await;
}

#[tokio::test]
async fn a_token_that_was_replaced_is_read_again_at_once() {
    let server = Server::start().await;
    server.free();
    let mut node = Node::start(&server, "n1", 15);
    let (term, _) = node.claim().await;
    server.rotate("better");
    node.condition(Condition::Denied).await;
    server.write_token("better");
    node.condition(Condition::Reachable).await;
    // kube itself reads the file once a minute: by then this claim of 10 s would be over.
    node.stop_owner(term).await;
}

#[tokio::test]
async fn credentials_may_come_later() {
    let server = Server::start().await;
    std::fs::remove_file(server.kubeconfig()).unwrap();
    let mut node = Node::start(&server, "n1", 3);
    let said = node.condition(Condition::Unreachable).await;
    assert!(said.contains("kubeconfig"), "{said}");
    server.write_kubeconfig();
    node.claim().await;
    node.stop().await;
}

#[tokio::test]
async fn of_three_nodes_one_owns_and_another_follows() {
    let server = Server::start().await;
    server.free();
    let mut nodes: Vec<Node> = ["n1", "n2", "n3"].map(|name| Node::start(&server, name, 6)).into();
    server.until("somebody owns", || !server.holder().is_empty()).await;
    let first = server.holder();
    let at = ["n1", "n2", "n3"].iter().position(|name| *name == first).unwrap();
    nodes[at].claim().await;
    // As a process that is killed: it says and writes nothing any more.
    let dead = nodes.remove(at);
    dead.task.abort();
    server.until("another owns", || server.holder() != first).await;
    assert_eq!(server.spec()["leaseTransitions"], 2, "each claim counts one more");
    for node in nodes {
        node.stop().await;
    }
    assert_eq!(server.holder(), "");
}
