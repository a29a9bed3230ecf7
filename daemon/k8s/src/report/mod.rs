//! What a node says of the shards that it holds, in objects of kind `VipStatus`: who, since when, where, and who may not.
//!
//! Nothing is read, and nothing depends on what is written. The owner writes and nobody else: it knows at first hand, so a takeover costs one
//! write and a node that only waits costs none. (The node that gives addresses would have to learn all owners from the network, where a
//! node that may own nothing hears of none.) Two owners of a network that is parted overwrite each other; who remains writes again
//! within [`board::REFRESH`].

mod board;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bascule_core::election::lease::Failure;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::access::{Access, Clients};
use crate::exchange::{self, Fault, Trouble};
use board::Board;

/// VIPs that are listed, so that an object stays far below etcd's limit of 1.5 MiB.
pub(crate) const ADDRESSES_SHOWN: usize = 1024;
/// Nodes that are listed.
pub(crate) const NODES_SHOWN: usize = 256;
/// Of `message` and of a reason, in characters.
const MESSAGE_MAX: usize = 1024;
const REASON_MAX: usize = 512;
const REASONS_MAX: usize = 16;
/// Longest silence of the server.
const SILENCE: Duration = Duration::from_secs(5);
/// First wait after a failure, doubling up to the last: nobody waits for a report.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Writes of one turn; the rest is the next one's.
const BURST: usize = 16;
const COLLECTION: &str = "/apis/bascule.dev/v1alpha1/vipstatuses";

/// Who holds a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This node.
    Node(String),
    /// Every node that may own announces routes: these.
    EveryNode(Vec<String>),
    /// Nobody, as far as this node hears, and why.
    Nobody(String),
}

/// A shard as this node reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VipStatus {
    /// Who holds it.
    pub holder: Holder,
    /// Since when, by the wall clock of now: only the first one of a holder is written.
    pub since: SystemTime,
    /// How it is announced: `L2`, `BGP`.
    pub announce: Vec<&'static str>,
    /// Its VIPs, in order.
    pub vips: Vec<IpAddr>,
    /// Nodes that may not own now, and why.
    pub ineligible: Vec<(String, Vec<String>)>,
}

/// For status and metrics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportState {
    /// Reports that were written since the start.
    pub written: u64,
    /// Writes that did not work.
    pub failed: u64,
    /// Why the last one did not; `None`: it did.
    pub trouble: Option<String>,
}

/// Writes reports, at a pace that no API server notices.
pub struct Reporter {
    access: Access,
    clients: Option<Clients>,
    board: Board,
    quiet: Instant,
    failures: u32,
    state: ReportState,
}

impl Reporter {
    /// One that has written nothing yet. Connects nowhere.
    pub fn new(access: Access) -> Self {
        let (board, state) = (Board::default(), ReportState::default());
        Self { access, clients: None, board, quiet: Instant::now(), failures: 0, state }
    }

    /// Writes what is due of `wanted`: the reports by the names of their objects that are this node's to give now. To be called about once a second.
    pub async fn turn(&mut self, wanted: &BTreeMap<String, VipStatus>) -> &ReportState {
        self.board.see(wanted, Instant::now());
        for _ in 0..BURST {
            let now = Instant::now();
            if now < self.quiet {
                break;
            }
            let Some(name) = self.board.due(now) else { break };
            let Some(status) = self.board.status(&name) else { break };
            match self.write(&name, &status).await {
                Ok(()) => {
                    self.board.written(&name, Instant::now());
                    (self.failures, self.state.trouble) = (0, None);
                    self.state.written += 1;
                }
                Err(trouble) => self.failed(trouble),
            }
        }
        &self.state
    }

    fn failed(&mut self, Trouble { fault, detail }: Trouble) {
        let asked = match fault {
            Fault::Failed(Failure::Throttled { retry_after }) => retry_after.unwrap_or_default(),
            // A token or a connection may have to be made anew.
            Fault::Failed(Failure::Denied | Failure::Lost) => {
                self.clients = None;
                Duration::ZERO
            }
            Fault::Failed(Failure::Unavailable) | Fault::NotFound | Fault::Conflict | Fault::Gone | Fault::Refused => {
                Duration::ZERO
            }
        };
        let wait = (WAIT_MIN * (1 << self.failures.min(6))).min(WAIT_MAX).max(asked.min(WAIT_MAX));
        self.quiet = Instant::now() + wait;
        self.failures = self.failures.saturating_add(1);
        self.state.failed += 1;
        self.state.trouble = Some(detail);
    }

    /// The object's status becomes this; an object that is not there is made.
    async fn write(&mut self, name: &str, status: &Value) -> Result<(), Trouble> {
        let client = self.client().await?;
        let patch = json!({"status": status});
        match send(&client, "PATCH", &format!("{COLLECTION}/{name}"), "application/merge-patch+json", &patch).await {
            Err(Trouble { fault: Fault::NotFound, .. }) => {}
            other => return other,
        }
        let object = json!({"apiVersion": "bascule.dev/v1alpha1", "kind": "VipStatus", "metadata": {"name": name}, "status": status});
        send(&client, "POST", COLLECTION, "application/json", &object).await
    }

    async fn client(&mut self) -> Result<Client, Trouble> {
        let clients = match self.clients.take() {
            Some(clients) => clients,
            None => self.access.clients().await.map_err(|error| Trouble::lost(exchange::chain(&error)))?,
        };
        Ok(self.clients.insert(clients).requests.clone())
    }
}

async fn send(client: &Client, method: &str, path: &str, form: &str, body: &Value) -> Result<(), Trouble> {
    let request = http::Request::builder().method(method).uri(path).header(http::header::CONTENT_TYPE, form);
    let request = request.body(body.to_string().into_bytes()).map_err(|error| Trouble::nonsense(error.to_string()))?;
    // The answer is the object, which is known; it is read so that the connection can be used again.
    let answer = exchange::open(client, request, SILENCE).await?;
    answer.whole_in_time(1 << 20, SILENCE).await.map(drop)
}

/// `status` of the object. What is not there is null, so that a merge patch takes it away.
fn wire(report: &VipStatus, since: &str) -> Value {
    let (node, reason, message) = match &report.holder {
        Holder::Node(node) => (Some(node), "Held", None),
        Holder::EveryNode(nodes) => (None, "EveryNode", Some(format!("announced by {}", nodes.join(", ")))),
        Holder::Nobody(why) => (None, "Nobody", Some(why.clone())),
    };
    let cut = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    let ineligible: Vec<Value> = report
        .ineligible
        .iter()
        .filter(|(_, reasons)| !reasons.is_empty())
        .take(NODES_SHOWN)
        .map(|(node, reasons)| {
            let reasons: Vec<String> = reasons.iter().take(REASONS_MAX).map(|reason| cut(reason, REASON_MAX)).collect();
            json!({"node": node, "reasons": reasons})
        })
        .collect();
    json!({
        "node": node,
        "reason": reason,
        "message": message.map(|message| cut(&message, MESSAGE_MAX)),
        "since": since,
        "announce": report.announce,
        "vipCount": report.vips.len(),
        "vips": report.vips.iter().take(ADDRESSES_SHOWN).collect::<Vec<_>>(),
        "ineligible": if ineligible.is_empty() { Value::Null } else { json!(ineligible) },
    })
}

/// The wall clock as the API writes times, in seconds; a clock before 1970 is its beginning.
fn text(at: SystemTime) -> String {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let at = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
