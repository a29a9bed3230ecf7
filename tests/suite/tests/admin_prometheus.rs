//! A real Prometheus scrapes the admin interface; the driver behind it is played.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bascule::admin::{Listeners, serve};
use bascule::handle::forward::ForwardStatus;
use bascule::handle::{NodePort, Request, channel};
use bascule::metrics::Metrics;
use bascule_bgp::speaker::SpeakerStatus;
use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::config::FencePolicy;
use bascule_core::node::event::Event;
use bascule_core::node::status::{GroupStatus, NodeStatus};
use bascule_core::types::{Role, Term};
use bascule_suite::fence::Netns;
use bascule_suite::net::ip;
use serde_json::Value;

/// Prometheus starts in a second or two, and in many more on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Killed with the test, by its own id.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn status() -> NodeStatus {
    let group = GroupStatus {
        name: "api".into(),
        addresses: vec![[10, 9, 0, 100].into()],
        families: vec![],
        interface: None,
        lease: None,
        vrid: 51,
        role: Role::Active,
        term: Term(1),
        owner: None,
        owner_priority: None,
        since_seconds: 0.0,
        fence_margin_seconds: Some(0.25),
        priority: 254,
        healthy: true,
        draining: false,
        condition: None,
        barred: false,
        announce: bascule_core::node::config::Announce::L2,
        route: bascule_core::announce::route::Want::Withdraw,
        adverts_sent: 41,
        adverts_heard: 0,
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

/// The driver: answers every snapshot with what stands in `status`.
async fn drive(mut port: NodePort, status: Arc<Mutex<NodeStatus>>) {
    // No such rooms here: nobody waits for them.
    drop((port.bgp.take(), port.forward.take()));
    while let Some(request) = port.requests.recv().await {
        port.turned(bascule::clock::boot_ns());
        match request {
            Request::Status(reply) => drop(reply.send(status.lock().expect("no panic").clone())),
            Request::Bfd(reply) => drop(reply.send(BfdStatus::default())),
            Request::Command(_, reply) => drop(reply.send(Err("not asked for here".into()))),
        }
    }
}

fn start_prometheus(dir: &Path, target: SocketAddr) -> Result<(Prometheus, SocketAddr)> {
    // Its default port: nobody else is in this namespace.
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 9090));
    let config = dir.join("prometheus.yml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms}}\nscrape_configs:\n  - job_name: bascule\n    \
             static_configs: [{{targets: ['{target}']}}]\n"
        ),
    )?;
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={server}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(dir.join("log"))?)
        .spawn()
        .context("the Debian package prometheus is installed by `cargo xtask setup`")?;
    Ok((Prometheus(child), server))
}

fn get(server: SocketAddr, path: &str) -> Result<Value> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    // HTTP/1.0: the answer is not chunked and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(serde_json::from_str(body)?)
}

/// Waits until a query has exactly this one value.
fn wait_for(server: SocketAddr, query: &str, wanted: &str) -> Result<()> {
    let mut last = String::from("no answer");
    let found = bascule_lab::wait_for(DEADLINE, query, || {
        let answer = get(server, &format!("/api/v1/query?query={query}"));
        let values = answer.as_ref().ok().and_then(|answer| answer["data"]["result"].as_array());
        let met = values.is_some_and(|values| values.len() == 1 && values[0]["value"][1] == wanted);
        last = answer.map_or_else(|error| error.to_string(), |answer| answer.to_string());
        met.then_some(())
    });
    found.with_context(|| format!("{query} was not {wanted}: {last}"))
}

#[test]
fn a_real_prometheus_scrapes_and_sees_what_moves() -> Result<()> {
    // Threads and processes that start inside stay inside.
    Netns::new()?.inside(|| {
        ip("link set lo up")?;
        scraped()
    })
}

fn scraped() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (handle, port) = channel(Arc::new(|| {}));
    let status = Arc::new(Mutex::new(status()));
    runtime.spawn(drive(port, Arc::clone(&status)));
    let metrics = Metrics::new("n1", 0);
    let shown = metrics.clone();
    let scrape = move |status: Option<&NodeStatus>,
                       _: Option<&BfdStatus>,
                       _: Option<&SpeakerStatus>,
                       _: Option<&ForwardStatus>| {
        match status {
            Some(status) => shown.update(status),
            None => shown.unknown(),
        }
        shown.render()
    };
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    let listeners = runtime.block_on(Listeners::bind(&dir.path().join("admin.sock"), Some(any)))?;
    let target = listeners.http.as_ref().context("asked for")?.local_addr()?;
    runtime.spawn(serve(listeners, handle, Arc::new(scrape), std::future::pending()));

    let (_prometheus, server) = start_prometheus(dir.path(), target)?;
    let watch = || -> Result<()> {
        wait_for(server, "up", "1")?;
        wait_for(server, "bascule_vip_held{vip=\"10.9.0.100\"}", "1")?;
        wait_for(server, "bascule_fence_margin_seconds", "0.25")?;
        wait_for(server, "bascule_adverts_sent_total", "41")?;
        wait_for(server, "bascule_rival_claims_total", "0")?;

        status.lock().expect("no panic").groups[0].role = Role::Backup;
        metrics.observe(&Event::Rival { group: "api".into(), address: None, mac: None, source: None, first: true });
        metrics.loop_lag(Duration::from_millis(3));
        wait_for(server, "bascule_vip_held{vip=\"10.9.0.100\"}", "0")?;
        wait_for(server, "bascule_rival_claims_total", "1")?;
        wait_for(server, "bascule_loop_lag_seconds_bucket{le=\"0.005\"}", "1")?;
        let targets = get(server, "/api/v1/targets")?;
        let found = &targets["data"]["activeTargets"];
        ensure!(found.as_array().map(Vec::len) == Some(1) && found[0]["lastError"] == "", "{targets}");
        Ok(())
    };
    watch().with_context(|| std::fs::read_to_string(dir.path().join("log")).unwrap_or_default())
}
