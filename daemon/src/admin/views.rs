//! One function per path.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bascule_core::bfd::status::BfdStatus;
use bascule_core::node::config::FencePolicy;
use bascule_core::node::io::Command;
use bascule_core::node::status::NodeStatus;
use bascule_core::service::plan::ObjectStanding;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Asked, bgp, forward};
use crate::clock;
use crate::handle::NodeHandle;
use crate::handle::bgp::BgpStatus;
use crate::handle::intent::{AllocatorView, ClusterView, ReportsView, ShardView};
use crate::handle::neighbors::NeighborsView;

/// A loop that has not turned for this long is stuck: it turns at least every 100 ms, and the machine may stall for a while.
pub const LIVE_AGE: Duration = Duration::from_secs(2);

/// A probe or a scrape that waits longer is worth less than a "no". Below the 1 s that a kubelet waits by default.
const SNAPSHOT: Duration = Duration::from_millis(800);

/// A BGP room that has not turned for this long is stuck: it turns at least every second, and a full table takes it a fraction of one.
const ROOM_AGE: Duration = Duration::from_secs(10);

/// Have the event loop and the BGP room turned lately? False before the loop's first turn.
pub fn is_live(handle: &NodeHandle) -> bool {
    let turn = handle.last_turn();
    turn != 0 && turn_age(turn) <= LIVE_AGE && !room_is_stuck(handle)
}

/// True when the room has turned once and then no more.
fn room_is_stuck(handle: &NodeHandle) -> bool {
    let turn = handle.bgp().last_turn();
    turn != 0 && turn_age(turn) > ROOM_AGE
}

fn turn_age(turn: u64) -> Duration {
    Duration::from_nanos(clock::boot_ns().saturating_sub(turn))
}

pub(super) async fn snapshot(asked: &Asked) -> Option<NodeStatus> {
    tokio::time::timeout(SNAPSHOT, asked.handle.status()).await.ok()?.ok()
}

/// Asked for when the loop has just answered: both together stay below the 1 s of [`SNAPSHOT`].
const SECOND_SNAPSHOT: Duration = Duration::from_millis(150);

async fn bfd_snapshot(asked: &Asked) -> Option<BfdStatus> {
    tokio::time::timeout(SECOND_SNAPSHOT, asked.handle.bfd()).await.ok()?.ok()
}

/// The words for "no snapshot".
pub(super) const SILENT: &str = "the event loop does not answer";

pub(super) fn no(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

pub(super) async fn metrics(State(asked): State<Asked>) -> Response {
    let status = snapshot(&asked).await;
    // A loop that gave no first snapshot is not waited for twice.
    let bfd = if status.is_some() { bfd_snapshot(&asked).await } else { None };
    let bgp = bgp::snapshot(&asked).await;
    let forward = forward::snapshot(&asked).await;
    let speaker = bgp.as_ref().map(|bgp| &bgp.speaker);
    let text = (asked.scrape)(status.as_ref(), bfd.as_ref(), speaker, forward.as_deref());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

pub(super) async fn live(State(asked): State<Asked>) -> Response {
    let turn = asked.handle.last_turn();
    let age = (turn != 0).then(|| turn_age(turn).as_secs_f64());
    let live = is_live(&asked.handle);
    let code = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "live": live, "lastTurnAgeSeconds": age }))).into_response()
}

pub(super) async fn ready(State(asked): State<Asked>) -> Response {
    let mut reasons = match snapshot(&asked).await {
        None => vec![SILENT.to_owned()],
        Some(status) => reasons(&status),
    };
    if reasons.is_empty() {
        reasons = bfd_snapshot(&asked).await.map_or_else(|| vec![SILENT.to_owned()], |bfd| bfd.errors);
    }
    reasons.extend(room_reasons(&asked.handle));
    let ready = reasons.is_empty();
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(json!({ "ready": ready, "reasons": reasons }))).into_response()
}

/// What the rooms of BGP and of forwarding cannot do. Told without waiting for them.
fn room_reasons(handle: &NodeHandle) -> Vec<String> {
    let mut reasons: Vec<String> = handle.bgp().troubles().iter().map(|trouble| format!("bgp: {trouble}")).collect();
    reasons.extend(handle.forward().trouble().map(|trouble| format!("forwarding: {trouble}")));
    if room_is_stuck(handle) {
        reasons.push("bgp: the room does not turn".to_owned());
    }
    reasons
}

/// Why a node is not ready, each naming what it is about; empty when it is.
fn reasons(status: &NodeStatus) -> Vec<String> {
    if status.ready {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if status.fence_policy == FencePolicy::Required && !status.fence_ready {
        reasons.push(format!("fence: {}", status.fence_error.as_deref().unwrap_or("not armed")));
    }
    let blocked = |group: &&bascule_core::node::status::GroupStatus| {
        group.role == bascule_core::types::Role::Initialize && !status.drained && !group.barred
    };
    for vip in status.anycast.iter().filter(|vip| !status.drained && (!vip.installed || vip.condition.is_some())) {
        reasons.push(format!("{}: {}", vip.name, vip.condition.as_deref().unwrap_or("addresses are not in place yet")));
    }
    for group in status.groups.iter().filter(blocked) {
        reasons.push(format!("{}: {}", group.name, group.condition.as_deref().unwrap_or("does not take part yet")));
    }
    if reasons.is_empty() {
        // The only thing left that makes a node unready (`Node::status`).
        reasons.push("the node is stopping".to_owned());
    }
    reasons
}

/// `/state`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    version: &'static str,
    last_turn_age_seconds: f64,
    reasons: Vec<String>,
    #[serde(flatten)]
    node: NodeStatus,
    bfd: BfdStatus,
    /// `null` when the BGP room does not answer.
    bgp: Option<BgpStatus>,
    /// `null` when Services of a cluster are left alone.
    cluster: Option<Cluster>,
    /// `null` before the first look.
    neighbors: Option<NeighborsView>,
}

/// What of `/cluster` is of one page: without its Services and nodes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster {
    source: Option<&'static str>,
    /// Why the API server tells nothing new.
    api: Option<String>,
    age_seconds: Option<f64>,
    services: usize,
    refused: std::collections::BTreeMap<&'static str, u64>,
    may_own: bool,
    reasons: Vec<String>,
    allocator: Option<AllocatorView>,
    reports: Option<ReportsView>,
    /// Why it tells nothing of objects about announcements.
    untold: Option<String>,
    objects: Vec<ObjectStanding>,
    shards: Vec<ShardView>,
}

fn cluster(asked: &Asked, status: &NodeStatus) -> Option<Cluster> {
    let plan = asked.handle.intent().get()?;
    let view = plan.view(status, asked.handle.intent());
    let (services, refused) = (plan.services(), plan.refused());
    let ClusterView { source, age_seconds, may_own, reasons, allocator, reports, objects, shards, .. } = view;
    let (api, untold) = (asked.handle.intent().api(), asked.handle.intent().untold());
    Some(Cluster {
        source,
        api,
        age_seconds,
        services,
        refused,
        may_own,
        reasons,
        allocator,
        reports,
        untold,
        objects,
        shards,
    })
}

pub(super) async fn state(State(asked): State<Asked>) -> Response {
    let Some(mut node) = snapshot(&asked).await else { return no(StatusCode::SERVICE_UNAVAILABLE, SILENT) };
    let Some(bfd) = bfd_snapshot(&asked).await else { return no(StatusCode::SERVICE_UNAVAILABLE, SILENT) };
    let mut reasons = reasons(&node);
    reasons.extend(bfd.errors.iter().cloned());
    reasons.extend(room_reasons(&asked.handle));
    let bgp = bgp::snapshot(&asked).await;
    node.ready &= reasons.is_empty();
    let cluster = cluster(&asked, &node);
    let neighbors = asked.handle.neighbors().get();
    Json(Page {
        version: env!("CARGO_PKG_VERSION"),
        last_turn_age_seconds: turn_age(asked.handle.last_turn()).as_secs_f64(),
        reasons,
        node,
        bfd,
        bgp,
        cluster,
        neighbors,
    })
    .into_response()
}

pub(super) async fn bfd(State(asked): State<Asked>) -> Response {
    match tokio::time::timeout(SNAPSHOT, asked.handle.bfd()).await {
        Ok(Ok(bfd)) => Json(bfd).into_response(),
        Ok(Err(_)) | Err(_) => no(StatusCode::SERVICE_UNAVAILABLE, SILENT),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Move {
    vip: String,
    to: String,
}

pub(super) async fn move_group(State(asked): State<Asked>, Json(wanted): Json<Move>) -> Response {
    command(&asked, Command::Move { vip: wanted.vip, to: wanted.to }).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    on: bool,
}

pub(super) async fn drain(State(asked): State<Asked>, Json(wanted): Json<Drain>) -> Response {
    command(&asked, if wanted.on { Command::Drain } else { Command::Undrain }).await
}

async fn command(asked: &Asked, command: Command) -> Response {
    match asked.handle.command(command).await {
        Ok(Ok(result)) => Json(json!({ "result": result })).into_response(),
        Ok(Err(error)) => no(StatusCode::CONFLICT, &error),
        Err(gone) => no(StatusCode::SERVICE_UNAVAILABLE, &gone.to_string()),
    }
}
