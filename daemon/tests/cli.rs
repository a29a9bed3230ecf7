//! The program itself against a real admin socket whose driver is played by a thread.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use bascule::admin::{Listeners, serve};
use bascule::handle::{NodePort, Publisher, Request, channel};
use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::config::FencePolicy;
use bascule_core::node::event::Event;
use bascule_core::node::io;
use bascule_core::node::status::NodeStatus;
use serde_json::Value;

fn bascule(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bascule")).args(words).output().expect("the program starts")
}

/// Exit status, standard output, standard error.
fn said(words: &[&str]) -> (i32, String, String) {
    let out = bascule(words);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code().expect("not killed"), text(out.stdout), text(out.stderr))
}

struct Daemon {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<io::Command>>>,
    publisher: Publisher,
    /// Kept: with it goes the answer to `/live`.
    _port: NodePort,
    _runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
        let (handle, mut port) = channel(Arc::new(|| {}));
        port.turned(bascule::clock::boot_ns());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (_, none) = tokio::sync::mpsc::channel(1);
        let mut requests = std::mem::replace(&mut port.requests, none);
        let commands = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Some(request) = requests.recv().await {
                match request {
                    Request::Status(reply) => drop(reply.send(status())),
                    Request::Bfd(reply) => drop(reply.send(BfdStatus::default())),
                    Request::Command(command, reply) => {
                        let known = !matches!(&command, io::Command::Move { to, .. } if to == "n9");
                        commands.lock().expect("no panic").push(command);
                        let answer =
                            if known { Ok("moved to n2") } else { Err("node n9 did not offer to take the group") };
                        drop(reply.send(answer.map(str::to_owned).map_err(str::to_owned)));
                    }
                }
            }
        });
        let socket = dir.path().join("admin.sock");
        let publisher = handle.publisher();
        let listeners = runtime.block_on(Listeners::bind(&socket, None)).expect("bound");
        runtime.spawn(serve(listeners, handle, Arc::new(|_, _, _, _| String::new()), std::future::pending()));
        Self { dir, asked, publisher, _port: port, _runtime: runtime }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    fn said(&self, words: &[&str]) -> (i32, String, String) {
        let socket = self.socket();
        said(&[words, &["--socket", utf8(&socket)]].concat())
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn status() -> NodeStatus {
    NodeStatus {
        node: "n1".into(),
        fence_policy: FencePolicy::Off,
        fence_ready: false,
        fence_error: Some("off".into()),
        drained: false,
        ready: true,
        groups: vec![],
        anycast: vec![],
        gates: vec![],
    }
}

#[test]
fn every_verb_reaches_the_daemon() {
    let daemon = Daemon::start();
    let (code, out, err) = daemon.said(&["status"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("node n1   ready   fence off   bascule "), "{out}");
    let state: Value = serde_json::from_str(&daemon.said(&["status", "--json"]).1).expect("JSON");
    assert_eq!(state["node"], "n1");

    assert!(daemon.said(&["bfd"]).1.starts_with("no BFD session is configured\n"));
    let sessions: Value = serde_json::from_str(&daemon.said(&["bfd", "--json"]).1).expect("JSON");
    assert_eq!(sessions["peers"], serde_json::json!([]));

    let gone = (1, String::new(), "bascule: the BGP room does not answer\n".to_owned());
    for words in [&["bgp"][..], &["bgp", "routes", "tor 1"], &["bgp", "reset", "tor1"]] {
        assert_eq!(daemon.said(words), gone, "{words:?}: this daemon has no such room");
    }
    assert_eq!(daemon.said(&["restart"]), (0, "stopping for a restart\n".into(), String::new()));

    assert_eq!(daemon.said(&["move", "api", "--to", "n2"]), (0, "moved to n2\n".into(), String::new()));
    let refused = daemon.said(&["move", "api", "--to", "n9"]);
    assert_eq!(refused, (1, String::new(), "bascule: node n9 did not offer to take the group\n".into()));
    assert_eq!(daemon.said(&["drain"]).0, 0);
    assert_eq!(daemon.said(&["drain", "--off"]).0, 0);
    let to = |to: &str| io::Command::Move { vip: "api".into(), to: to.into() };
    assert_eq!(*daemon.asked.lock().expect("no panic"), [to("n2"), to("n9"), io::Command::Drain, io::Command::Undrain]);

    daemon.publisher.publish(Event::Drain { on: true }, 0);
    assert_eq!(daemon.said(&["events"]).1, "1970-01-01 00:00:00.000Z  drain  on=true\n");
    assert_eq!(daemon.said(&["events", "--json"]).1, "{\"seq\":1,\"unix_ms\":0,\"event\":\"drain\",\"on\":true}\n");

    let (code, _, err) = daemon.said(&["clean"]);
    assert!(code == 1 && err.contains("stop it first"), "a running daemon keeps its fence: {err}");
}

#[test]
fn no_daemon_is_one_friendly_line_and_its_own_exit_status() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("admin.sock");
    let line = format!("bascule: no daemon answers on {}: is it running?\n", socket.display());
    for words in [&["status"][..], &["events", "-f"], &["move", "api", "--to", "n2"], &["drain"]] {
        let (code, out, err) = said(&[words, &["--socket", utf8(&socket)]].concat());
        assert_eq!((code, out, err), (3, String::new(), line.clone()), "{words:?}");
    }
    // What a SIGKILL leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    assert_eq!(said(&["status", "--socket", utf8(&socket)]).0, 3);
}

#[test]
fn the_rest_has_its_exit_status_too() {
    assert_eq!(said(&["version"]), (0, format!("bascule {}\n", env!("CARGO_PKG_VERSION")), String::new()));
    assert_eq!(said(&["stat"]).0, 2, "clap's");
    let (code, out, err) = said(&["check", "/nonexistent/bascule.yaml"]);
    assert!(code != 0 && out.is_empty() && err.lines().count() == 1, "{err}");
    for page in ["config", "metrics", "cli"] {
        let (code, out, _) = said(&["docs", page]);
        assert!(code == 0 && out.starts_with("# "), "{page}: {out}");
    }
    let pod = ["render", "static-pod", "--vip", "10.9.0.100", "--vrid", "1", "--priority", "200", "--image", "x"];
    assert!(said(&pod).1.contains("kind: Pod"));
    assert!(said(&["render", "systemd"]).1.contains("WatchdogSec="));
}
