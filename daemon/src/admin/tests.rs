use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Mutex;

use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::config::FencePolicy;
use bascule_core::node::event::Event;
use bascule_core::node::io::Command;
use bascule_core::node::status::GroupStatus;
use bascule_core::types::{Role, Term};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::clock;
use crate::handle::bgp::{BgpPort, BgpRequest, BgpStatus};
use crate::handle::{NodePort, Publisher, Request, channel};

fn status() -> NodeStatus {
    let group = GroupStatus {
        name: "api".into(),
        addresses: vec!["10.9.0.100".parse().unwrap()],
        families: vec![],
        interface: Some("eth0".into()),
        vrid: 51,
        lease: None,
        role: Role::Active,
        term: Term(3),
        owner: None,
        owner_priority: None,
        since_seconds: 1.0,
        fence_margin_seconds: Some(0.25),
        priority: 254,
        healthy: true,
        draining: false,
        condition: None,
        barred: false,
        announce: bascule_core::node::config::Announce::L2,
        route: bascule_core::announce::route::Want::Withdraw,
        adverts_sent: 1,
        adverts_heard: 2,
    };
    NodeStatus {
        node: "n1".into(),
        fence_policy: FencePolicy::Required,
        fence_ready: true,
        fence_error: None,
        drained: false,
        ready: true,
        groups: vec![group],
        anycast: vec![],
        gates: vec![],
    }
}

/// A daemon whose driver is played by a task.
struct Fake {
    dir: tempfile::TempDir,
    http: SocketAddr,
    status: Arc<Mutex<NodeStatus>>,
    bfd: Arc<Mutex<BfdStatus>>,
    asked: Arc<Mutex<Vec<Command>>>,
    port: Arc<Mutex<Option<NodePort>>>,
    publisher: Publisher,
    cluster: crate::handle::intent::IntentHandle,
    driver: JoinHandle<()>,
    server: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Fake {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (handle, mut port) = channel(Arc::new(|| {}));
        let status = Arc::new(Mutex::new(status()));
        let bfd = Arc::new(Mutex::new(BfdStatus::default()));
        let bfds = Arc::clone(&bfd);
        let asked = Arc::new(Mutex::new(Vec::new()));
        port.turned(clock::boot_ns());
        tokio::spawn(play_room(port.bgp.take().unwrap()));
        let (_, none) = tokio::sync::mpsc::channel(1);
        let mut requests = std::mem::replace(&mut port.requests, none);
        let (answers, commands) = (Arc::clone(&status), Arc::clone(&asked));
        let driver = tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Status(reply) => drop(reply.send(answers.lock().unwrap().clone())),
                    Request::Bfd(reply) => drop(reply.send(bfds.lock().unwrap().clone())),
                    Request::Command(command, reply) => {
                        let answer = match &command {
                            Command::Move { to, .. } if to == "n9" => Err("node n9 did not offer".to_owned()),
                            _ => Ok("done".to_owned()),
                        };
                        commands.lock().unwrap().push(command);
                        drop(reply.send(answer));
                    }
                }
            }
        });
        let listeners =
            Listeners::bind(&dir.path().join("run/admin.sock"), Some(([127, 0, 0, 1], 0).into())).await.unwrap();
        let http = listeners.http.as_ref().unwrap().local_addr().unwrap();
        let scrape: Scrape =
            Arc::new(|s, _, _, _| format!("groups {}\n", s.map_or(-1, |s| i32::try_from(s.groups.len()).unwrap())));
        let (stop, stopped) = oneshot::channel();
        let publisher = handle.publisher();
        let cluster = handle.intent().clone();
        let server = tokio::spawn(serve(listeners, handle, scrape, async {
            let _stopped = stopped.await;
        }));
        let port = Arc::new(Mutex::new(Some(port)));
        Self { dir, http, status, bfd, asked, port, publisher, cluster, driver, server, stop: Some(stop) }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("run/admin.sock")
    }

    fn with_port(&self, f: impl FnOnce(&NodePort)) {
        f(self.port.lock().unwrap().as_ref().unwrap());
    }

    async fn unix(&self, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        ask(UnixStream::connect(self.socket()).await.unwrap(), method, path, body).await
    }

    async fn tcp(&self, method: &str, path: &str, body: Option<Value>) -> (u16, String) {
        ask(TcpStream::connect(self.http).await.unwrap(), method, path, body).await
    }
}

fn request(method: &str, path: &str, body: Option<Value>) -> String {
    let body = body.map(|b| b.to_string()).unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One request on its own connection: status and body.
async fn ask<S>(mut stream: S, method: &str, path: &str, body: Option<Value>) -> (u16, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(request(method, path, body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// A BGP room with one neighbor that holds nothing.
async fn play_room(mut port: BgpPort) {
    let now = bascule_bgp::time::Instant::ZERO;
    let speaker = bascule_bgp::speaker::Speaker::new(1, now);
    while let Some(request) = port.requests.recv().await {
        match request {
            BgpRequest::Status(reply) => {
                drop(reply.send(BgpStatus { troubles: Vec::new(), speaker: speaker.status(now) }));
            }
            BgpRequest::Routes(neighbor, reply) => drop(reply.send((neighbor == "tor1").then(Vec::new))),
            BgpRequest::Reset(neighbor, reply) => drop(reply.send(neighbor == "tor1")),
        }
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test]
async fn both_listeners_answer_and_only_the_socket_acts() {
    let fake = Fake::start().await;
    for path in ["/metrics", "/live", "/ready", "/state", "/bfd", "/bgp", "/bgp/routes?neighbor=tor1"] {
        assert_eq!(fake.unix("GET", path, None).await.0, 200, "{path}");
        assert_eq!(fake.tcp("GET", path, None).await.0, 200, "{path}");
    }
    let moves = json!({"vip": "api", "to": "n2"});
    assert_eq!(fake.tcp("POST", "/move", Some(moves.clone())).await.0, 404);
    assert_eq!(fake.tcp("POST", "/drain", Some(json!({"on": true}))).await.0, 404);
    assert_eq!(fake.tcp("GET", "/events", None).await.0, 404);
    assert_eq!(fake.tcp("POST", "/bgp/reset", Some(json!({"neighbor": "tor1"}))).await.0, 404);
    assert_eq!(fake.tcp("POST", "/restart", Some(json!({}))).await.0, 404);
    assert!(fake.asked.lock().unwrap().is_empty());

    assert_eq!(fake.unix("POST", "/move", Some(moves)).await.0, 200);
    assert_eq!(fake.unix("POST", "/drain", Some(json!({"on": true}))).await.0, 200);
    assert_eq!(fake.unix("POST", "/drain", Some(json!({"on": false}))).await.0, 200);
    let (code, body) = fake.unix("POST", "/move", Some(json!({"vip": "api", "to": "n9"}))).await;
    assert_eq!((code, parsed(&body)), (409, json!({"error": "node n9 did not offer"})));
    let to = |to: &str| Command::Move { vip: "api".into(), to: to.into() };
    assert_eq!(*fake.asked.lock().unwrap(), [to("n2"), Command::Drain, Command::Undrain, to("n9")]);
}

#[tokio::test]
async fn the_bgp_room_is_asked_and_an_unknown_neighbor_is_named() {
    let fake = Fake::start().await;
    let (code, body) = fake.unix("GET", "/bgp", None).await;
    assert_eq!((code, &parsed(&body)["neighbors"]), (200, &json!([])));
    assert_eq!(fake.unix("GET", "/bgp/routes?neighbor=tor1", None).await, (200, "[]".to_owned()));
    let (code, body) = fake.unix("POST", "/bgp/reset", Some(json!({"neighbor": "tor1"}))).await;
    assert_eq!((code, parsed(&body)), (200, json!({"result": "tor1 is reset"})));
    let unknown = json!({"error": "no neighbor is called tor9"});
    let (code, body) = fake.unix("POST", "/bgp/reset", Some(json!({"neighbor": "tor9"}))).await;
    assert_eq!((code, parsed(&body)), (404, unknown.clone()));
    let (code, body) = fake.unix("GET", "/bgp/routes?neighbor=tor9", None).await;
    assert_eq!((code, parsed(&body)), (404, unknown));
    assert_eq!(parsed(&fake.unix("GET", "/state", None).await.1)["bgp"]["routes"], 0);
    assert_eq!(fake.unix("POST", "/restart", Some(json!({}))).await.0, 200);
}

#[tokio::test]
async fn state_is_the_snapshot_and_the_version() {
    let fake = Fake::start().await;
    let state = parsed(&fake.unix("GET", "/state", None).await.1);
    assert_eq!(state["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(state["node"], "n1");
    assert_eq!(state["groups"][0]["fenceMarginSeconds"], 0.25);
    assert_eq!(fake.tcp("GET", "/metrics", None).await.1, "groups 1\n");
}

#[tokio::test]
async fn ready_says_why_not() {
    let fake = Fake::start().await;
    type Change = fn(&mut NodeStatus);
    let table: [(Change, &str); 4] = [
        (|s| (s.fence_ready, s.fence_error) = (false, Some("no bpffs".into())), "fence: no bpffs"),
        (
            |s| (s.groups[0].role, s.groups[0].condition) = (Role::Initialize, Some("vrid_in_use".into())),
            "api: vrid_in_use",
        ),
        (|s| s.groups[0].role = Role::Initialize, "api: does not take part yet"),
        (|_| {}, "the node is stopping"),
    ];
    for (change, reason) in table {
        let mut bad = NodeStatus { ready: false, ..status() };
        change(&mut bad);
        *fake.status.lock().unwrap() = bad;
        let (code, body) = fake.tcp("GET", "/ready", None).await;
        assert_eq!((code, parsed(&body)), (503, json!({"ready": false, "reasons": [reason]})));
    }
}

#[tokio::test]
async fn bfd_that_hears_nothing_is_not_ready() {
    let fake = Fake::start().await;
    let why = "BFD hears no single-hop V4 packets: port in use";
    fake.bfd.lock().unwrap().errors.push(why.into());
    let (code, body) = fake.tcp("GET", "/ready", None).await;
    assert_eq!((code, parsed(&body)), (503, json!({"ready": false, "reasons": [why]})));
    let state = parsed(&fake.unix("GET", "/state", None).await.1);
    assert_eq!((&state["ready"], &state["reasons"][0]), (&json!(false), &json!(why)));
    assert_eq!(state["bfd"], parsed(&fake.unix("GET", "/bfd", None).await.1));
}

#[tokio::test]
async fn a_loop_that_stopped_turning_is_seen() {
    let fake = Fake::start().await;
    assert_eq!(fake.tcp("GET", "/live", None).await.0, 200);
    fake.with_port(|port| port.turned(clock::boot_ns() - 2_100_000_000));
    assert_eq!(fake.tcp("GET", "/live", None).await.0, 503, "2.1 s old");
    fake.with_port(|port| port.turned(0));
    assert_eq!(fake.tcp("GET", "/live", None).await.0, 503, "never turned");

    fake.driver.abort();
    let (code, body) = fake.tcp("GET", "/ready", None).await;
    assert_eq!((code, parsed(&body)["reasons"][0].as_str()), (503, Some("the event loop does not answer")));
    assert_eq!(fake.tcp("GET", "/state", None).await.0, 503);
    assert_eq!(
        fake.tcp("GET", "/metrics", None).await,
        (200, "groups -1\n".into()),
        "counters are still worth a scrape"
    );
}

#[tokio::test]
async fn events_run_from_history_into_the_stream_until_the_end() {
    let mut fake = Fake::start().await;
    let drain = |on| Event::Drain { on };
    [true, false, true].into_iter().for_each(|on| fake.publisher.publish(drain(on), 7));
    let (_, page) = fake.unix("GET", "/events?after=1", None).await;
    let seqs: Vec<u64> =
        page.lines().filter(|l| l.starts_with('{')).map(|l| parsed(l)["seq"].as_u64().unwrap()).collect();
    assert_eq!(seqs, [2, 3]);

    let mut stream = UnixStream::connect(fake.socket()).await.unwrap();
    stream.write_all(request("GET", "/events?after=2&follow=true", None).as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut next = async || loop {
        match lines.next_line().await.unwrap() {
            Some(line) if line.starts_with('{') => return Some(parsed(&line)),
            Some(_) => {}
            None => return None,
        }
    };
    assert_eq!(next().await.unwrap()["seq"], 3);
    fake.publisher.publish(drain(false), 8);
    assert_eq!(next().await.unwrap(), json!({"seq": 4, "unix_ms": 8, "event": "drain", "on": false}));

    drop(fake.stop.take());
    assert_eq!(next().await, None, "a reader is told to go when the daemon stops");
    (&mut fake.server).await.unwrap();
    assert!(!fake.socket().exists(), "the socket goes with the daemon");
}

#[tokio::test]
async fn the_socket_is_roots_and_a_live_one_is_never_replaced() {
    let fake = Fake::start().await;
    let meta = std::fs::symlink_metadata(fake.socket()).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    let parent = std::fs::metadata(fake.socket().parent().unwrap()).unwrap();
    assert_eq!(parent.permissions().mode() & 0o777, 0o755);

    let second = AdminSocket::bind(&fake.socket());
    assert!(matches!(second, Err(BindError::InUse { .. })), "{second:?}");
    assert_eq!(fake.unix("GET", "/live", None).await.0, 200, "the first one still answers");
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_foreign_thing_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "what a SIGKILL leaves");
    let socket = AdminSocket::bind(&path).unwrap();
    drop(socket);
    assert!(!path.exists());

    let live = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let refused = AdminSocket::bind(&path);
    assert!(matches!(refused, Err(BindError::InUse { .. })), "somebody listens without our lock: {refused:?}");
    drop(live);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "notes").unwrap();
    let refused = AdminSocket::bind(&path);
    assert!(matches!(refused, Err(BindError::NoSocket { .. })), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "notes");
}

#[tokio::test]
async fn the_forwarding_room_is_asked_and_wrong_questions_are_named() {
    use crate::handle::forward::{FlowList, ForwardRequest, ForwardStatus};
    let fake = Fake::start().await;
    let mut room = fake.port.lock().unwrap().as_mut().unwrap().forward.take().unwrap();
    let played = tokio::spawn(async move {
        while let Some(request) = room.requests.recv().await {
            match request {
                ForwardRequest::Status(reply) => {
                    drop(reply.send(Box::new(ForwardStatus { on: true, ..ForwardStatus::default() })));
                }
                ForwardRequest::Flows(filter, reply) => {
                    assert_eq!(filter.vip_port, Some(443));
                    drop(reply.send(Ok(FlowList::default())));
                }
                ForwardRequest::Trace(asked, reply) => {
                    drop(reply.send(Err(format!("asked for {}", asked.vip))));
                }
                ForwardRequest::Serving(services, _)
                | ForwardRequest::Demand(services, _)
                | ForwardRequest::Handshakes(services, _) => {
                    panic!("no page asks for {services:?}")
                }
            }
        }
    });
    let (code, page) = fake.tcp("GET", "/services", None).await;
    assert_eq!(code, 200);
    assert!(page.contains(r#""on":true"#), "{page}");
    assert_eq!(fake.unix("GET", "/flows?vipPort=443", None).await.0, 200);
    let (code, said) = fake.unix("GET", "/flows?protocol=icmp", None).await;
    assert_eq!(code, 400);
    assert!(said.contains("icmp is none of tcp, udp and sctp"), "{said}");
    let trace = "/trace?vip=10.9.0.100&port=443&client=192.0.2.1&clientPort=4000";
    let (code, said) = fake.unix("GET", trace, None).await;
    assert_eq!(code, 500);
    assert!(said.contains("asked for 10.9.0.100"), "{said}");
    let mixed = "/trace?vip=10.9.0.100&port=443&client=2001:db8::1&clientPort=4000";
    assert_eq!(fake.unix("GET", mixed, None).await.0, 400);
    played.abort();
    drop(played.await);
    let (code, said) = fake.unix("GET", "/services", None).await;
    assert_eq!(code, 503, "{said}");
}

#[tokio::test]
async fn a_cluster_is_shown_once_its_services_are_read() {
    let fake = Fake::start().await;
    for path in ["/cluster", "/rebalance"] {
        let (code, said) = fake.tcp("GET", path, None).await;
        assert_eq!(code, 404, "{path}");
        assert!(said.contains("kubernetes.services"), "{said}");
    }
    fake.cluster.set(Some(crate::metrics::tests::fixtures::in_force()));
    let (code, page) = fake.tcp("GET", "/cluster", None).await;
    assert_eq!(code, 200, "{page}");
    assert!(page.contains("shop/b") && page.contains("10.9.7.100"), "{page}");
    let (code, moves) = fake.unix("GET", "/rebalance", None).await;
    assert_eq!((code, parsed(&moves)), (200, json!([])), "no shard of this plan is on this node's list");
}

#[test]
fn every_path_of_the_interface_is_tested_here() {
    // Guards the two lists above against a route that is added without a test.
    let source = include_str!("mod.rs");
    let routes: BTreeMap<&str, ()> =
        source.split(".route(\"").skip(1).filter_map(|s| s.split('"').next()).map(|r| (r, ())).collect();
    let known = [
        "/bfd",
        "/bgp",
        "/bgp/reset",
        "/bgp/routes",
        "/cluster",
        "/drain",
        "/events",
        "/flows",
        "/live",
        "/metrics",
        "/move",
        "/ready",
        "/rebalance",
        "/restart",
        "/services",
        "/sites",
        "/sites/drain",
        "/state",
        "/trace",
        "/why",
    ];
    assert_eq!(routes.into_keys().collect::<Vec<_>>(), known);
}

#[tokio::test]
async fn a_site_that_is_alone_says_so() {
    let fake = Fake::start().await;
    for path in ["/sites", "/why?service=web"] {
        let (code, said) = fake.tcp("GET", path, None).await;
        assert!(code == 404 && said.contains("this site is alone"), "{code} {said}");
    }
    assert_eq!(fake.tcp("GET", "/why", None).await.0, 400, "of which service?");
    let order = Some(json!({ "what": "site", "on": true }));
    assert_eq!(fake.tcp("POST", "/sites/drain", order.clone()).await.0, 404, "nobody acts over TCP");
    let (code, said) = fake.unix("POST", "/sites/drain", order).await;
    assert!(code == 404 && said.contains("this site is alone"), "{code} {said}");
}
