//! What is asked of the forwarding room.

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bascule_core::service::Protocol;
use serde::Deserialize;

use super::Asked;
use super::views::no;
use crate::handle::forward::{self, FlowFilter, ForwardGone, ForwardStatus};

/// A scrape that waits longer is worth less than a page without forwarding.
const SNAPSHOT: Duration = Duration::from_millis(300);
/// Most flows in one answer: what a person reads and a page of JSON holds.
const FLOWS_MAX: usize = 10_000;

/// A snapshot for a page that shows other rooms, too; `None` when there is no room or it gives none in time.
pub(super) async fn snapshot(asked: &Asked) -> Option<Box<ForwardStatus>> {
    tokio::time::timeout(SNAPSHOT, asked.handle.forward().status()).await.ok()?.ok()
}

fn gone(error: ForwardGone) -> Response {
    no(StatusCode::SERVICE_UNAVAILABLE, &format!("{error}: is there a `forwarding` section?"))
}

/// `/services`.
pub(super) async fn services(asked: State<Asked>) -> Response {
    asked.handle.forward().status().await.map_or_else(gone, |status| Json(status).into_response())
}

/// Query of `/flows`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FlowQuery {
    client: Option<IpAddr>,
    client_port: Option<u16>,
    vip: Option<IpAddr>,
    vip_port: Option<u16>,
    endpoint: Option<IpAddr>,
    protocol: Option<String>,
    limit: Option<usize>,
}

/// The protocol of a word.
fn protocol(word: &str) -> Result<Protocol, String> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| protocol.as_str() == word)
        .ok_or_else(|| format!("{word} is none of tcp, udp and sctp"))
}

/// `/flows`.
pub(super) async fn flows(asked: State<Asked>, Query(query): Query<FlowQuery>) -> Response {
    let protocol = match query.protocol.as_deref().map(protocol).transpose() {
        Ok(protocol) => protocol,
        Err(wrong) => return no(StatusCode::BAD_REQUEST, &wrong),
    };
    let filter = FlowFilter {
        client: query.client,
        client_port: query.client_port,
        vip: query.vip,
        vip_port: query.vip_port,
        endpoint: query.endpoint,
        protocol,
        limit: query.limit.map(|limit| limit.min(FLOWS_MAX)),
    };
    match asked.handle.forward().flows(filter).await {
        Ok(Ok(list)) => Json(list).into_response(),
        Ok(Err(error)) => no(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Err(error) => gone(error),
    }
}

/// Query of `/trace`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TraceQuery {
    vip: IpAddr,
    port: u16,
    client: IpAddr,
    client_port: u16,
    protocol: Option<String>,
}

/// `/trace`.
pub(super) async fn trace(asked: State<Asked>, Query(query): Query<TraceQuery>) -> Response {
    let protocol = match protocol(query.protocol.as_deref().unwrap_or(Protocol::Tcp.as_str())) {
        Ok(protocol) => protocol,
        Err(wrong) => return no(StatusCode::BAD_REQUEST, &wrong),
    };
    if query.vip.is_ipv4() != query.client.is_ipv4() {
        return no(StatusCode::BAD_REQUEST, "the client is of another family than the VIP");
    }
    let question = forward::Asked {
        vip: query.vip,
        port: query.port,
        protocol,
        client: query.client,
        client_port: query.client_port,
    };
    match asked.handle.forward().trace(question).await {
        Ok(Ok(trace)) => Json(trace).into_response(),
        Ok(Err(error)) => no(StatusCode::INTERNAL_SERVER_ERROR, &error),
        Err(error) => gone(error),
    }
}
