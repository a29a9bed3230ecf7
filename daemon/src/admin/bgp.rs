//! What is asked of the BGP room.

use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::Asked;
use super::views::no;
use crate::handle::bgp::{BgpStatus, RoomGone};

/// A scrape that waits longer is worth less than a page without BGP.
const SNAPSHOT: Duration = Duration::from_millis(150);

/// A snapshot for a page that shows other rooms, too; `None` when the room gives none in time.
pub(super) async fn snapshot(asked: &Asked) -> Option<BgpStatus> {
    tokio::time::timeout(SNAPSHOT, asked.handle.bgp().status()).await.ok()?.ok()
}

fn gone(error: RoomGone) -> Response {
    no(StatusCode::SERVICE_UNAVAILABLE, &error.to_string())
}

/// `/bgp`.
pub(super) async fn status(asked: State<Asked>) -> Response {
    asked.handle.bgp().status().await.map_or_else(gone, |status| Json(status).into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    neighbor: String,
}

fn unknown(neighbor: &str) -> Response {
    no(StatusCode::NOT_FOUND, &format!("no neighbor is called {neighbor}"))
}

/// `/bgp/routes?neighbor=NAME`.
pub(super) async fn routes(asked: State<Asked>, Query(wanted): Query<Named>) -> Response {
    match asked.handle.bgp().routes(&wanted.neighbor).await {
        Ok(Some(routes)) => Json(routes).into_response(),
        Ok(None) => unknown(&wanted.neighbor),
        Err(error) => gone(error),
    }
}

/// `/bgp/reset`.
pub(super) async fn reset(asked: State<Asked>, Json(wanted): Json<Named>) -> Response {
    match asked.handle.bgp().reset(&wanted.neighbor).await {
        Ok(true) => Json(json!({ "result": format!("{} is reset", wanted.neighbor) })).into_response(),
        Ok(false) => unknown(&wanted.neighbor),
        Err(error) => gone(error),
    }
}

/// `/restart`.
pub(super) async fn restart(asked: State<Asked>) -> Response {
    asked.handle.bgp().ask_restart();
    Json(json!({ "result": "stopping for a restart" })).into_response()
}
