//! What was made of the cluster's intent.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::Asked;
use super::views::{SILENT, no, snapshot};

/// `/cluster`.
pub(super) async fn cluster(State(asked): State<Asked>) -> Response {
    with(&asked, |plan, status| Json(plan.view(status, asked.handle.intent())).into_response()).await
}

/// `/rebalance`: the moves that would bring every shard to its best node, in their order.
pub(super) async fn moves(State(asked): State<Asked>) -> Response {
    with(&asked, |plan, status| Json(plan.rebalance(status)).into_response()).await
}

async fn with(
    asked: &Asked,
    answer: impl FnOnce(&crate::handle::intent::InForce, &bascule_core::node::status::NodeStatus) -> Response,
) -> Response {
    let Some(plan) = asked.handle.intent().get() else {
        return no(
            StatusCode::NOT_FOUND,
            "Services of a cluster are left alone: there is no `kubernetes.services` section",
        );
    };
    match snapshot(asked).await {
        Some(status) => answer(&plan, &status),
        None => no(StatusCode::SERVICE_UNAVAILABLE, SILENT),
    }
}
