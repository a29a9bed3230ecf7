//! What this node makes of sites.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bascule_core::time::Instant;
use serde::Deserialize;

use super::Asked;
use super::views::no;
use crate::clock;
use crate::handle::sites::Why;

/// The words for "no sites".
const ALONE: &str = "this site is alone: there is no `site` section";

/// `/sites`.
pub(super) async fn sites(State(asked): State<Asked>) -> Response {
    match asked.handle.sites().get() {
        Some(status) => Json(&*status).into_response(),
        None => no(StatusCode::NOT_FOUND, ALONE),
    }
}

/// Query of `/why`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhyQuery {
    service: String,
}

/// `/why`: what moved new connections of a service, with the clock of now to count from.
pub(super) async fn why(State(asked): State<Asked>, Query(query): Query<WhyQuery>) -> Response {
    let sites = asked.handle.sites();
    if sites.get().is_none() {
        return no(StatusCode::NOT_FOUND, ALONE);
    }
    match sites.why(&query.service).map(Arc::unwrap_or_clone) {
        Some(why) => Json(Why { now: Instant::from_nanos(clock::boot_ns()), ..why }).into_response(),
        None => no(
            StatusCode::NOT_FOUND,
            &format!("no site was chosen for {} yet: is it a service with `sites`?", query.service),
        ),
    }
}
