//! `/events`: one JSON object per line, from the kept history into the live stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};

use super::Asked;
use crate::handle::Record;

/// Lines on their way to one reader. A reader that is slower than that is held back by the broadcast channel, which drops the oldest.
const LINES: usize = 64;

/// What a reader asks for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    /// Only events after this sequence number.
    #[serde(default)]
    after: u64,
    /// Go on with what is yet to come.
    #[serde(default)]
    follow: bool,
}

pub(super) async fn events(State(asked): State<Asked>, Query(wanted): Query<Wanted>) -> Response {
    let (past, live) = asked.handle.events(wanted.after);
    let (lines, body) = mpsc::channel(LINES);
    let follow = wanted.follow.then_some((live, asked.closing));
    tokio::spawn(async move {
        // An error means that the reader is gone, which is a good end.
        let _gone = copy(past, follow, &lines).await;
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(body))).into_response()
}

struct Gone;

type Follow = (broadcast::Receiver<Record>, watch::Receiver<bool>);

async fn copy(past: Vec<Record>, follow: Option<Follow>, lines: &mpsc::Sender<Bytes>) -> Result<(), Gone> {
    for record in past {
        send(lines, &record).await?;
    }
    let Some((mut live, mut closing)) = follow else { return Ok(()) };
    loop {
        let next = tokio::select! {
            next = live.recv() => next,
            _closing = closing.wait_for(|closing| *closing) => return Ok(()),
            () = lines.closed() => return Err(Gone),
        };
        match next {
            Ok(record) => send(lines, &record).await?,
            // Said aloud: a gap that looks like silence would be a lie.
            Err(RecvError::Lagged(lost)) => send(lines, &json!({"event": "lost", "count": lost})).await?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send(lines: &mpsc::Sender<Bytes>, what: &impl Serialize) -> Result<(), Gone> {
    let mut line =
        serde_json::to_vec(what).expect("an event has only string keys, and writing to memory does not fail");
    line.push(b'\n');
    lines.send(Bytes::from(line)).await.map_err(|_| Gone)
}

/// The body of the answer: lines as they come.
struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|bytes| Ok(Frame::data(bytes))))
    }
}
