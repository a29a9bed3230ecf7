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
use crate::handle::sites::{DrainView, Why};

/// The words for "no sites".
pub(super) const ALONE: &str = "this site is alone: there is no `site` section, or nothing says yet what this site is";

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
    let Some(status) = sites.get() else { return no(StatusCode::NOT_FOUND, ALONE) };
    match sites.why(&query.service).map(Arc::unwrap_or_clone) {
        Some(why) => {
            // Orders and leases come and go between two changes of a table.
            let takes = |drain: &&DrainView| drain.services.contains(&query.service);
            let drains = status.drains.iter().filter(takes).cloned().collect();
            let service = status.services.iter().find(|one| one.name == query.service);
            let (lease, brought) = (service.and_then(|one| one.lease.clone()), service.map(|one| one.brought));
            Json(Why { now: Instant::from_nanos(clock::boot_ns()), drains, lease, brought, ..why }).into_response()
        }
        None => no(
            StatusCode::NOT_FOUND,
            &format!("no site was chosen for {} yet: is it a service with `sites`?", query.service),
        ),
    }
}
