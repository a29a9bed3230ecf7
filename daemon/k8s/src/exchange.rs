//! One request and its answer, for every user of the API: what a status means, what a body may weigh, how long silence may last.

use std::time::Duration;

use bascule_core::election::lease::{Condition, Failure};
pub(crate) use bascule_elector::chain;
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, timeout, timeout_at};

/// Status, headers that matter, and what follows.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `Retry-After`.
    pub(crate) retry_after: Option<Duration>,
    body: Body,
}

/// What went wrong, and in whose words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    pub(crate) detail: String,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 410: the version that was named is too old.
    Gone,
    /// 400, 413, 422: the same request is never answered better.
    Refused,
    /// It may go better later.
    Failed(Failure),
}

impl Fault {
    /// Of an answer that is no success.
    pub(crate) const fn of(status: u16, retry_after: Option<Duration>) -> Self {
        match status {
            404 => Self::NotFound,
            409 => Self::Conflict,
            410 => Self::Gone,
            400 | 413 | 422 => Self::Refused,
            429 => Self::Failed(Failure::Throttled { retry_after }),
            401 | 403 => Self::Failed(Failure::Denied),
            // 5xx; of the rest nothing is known that would help.
            _ => Self::Failed(Failure::Unavailable),
        }
    }

    /// How the server stands by this.
    pub(crate) const fn condition(self) -> Condition {
        match self {
            // It answered, and knows what it says.
            Self::NotFound | Self::Conflict | Self::Gone | Self::Refused => Condition::Reachable,
            Self::Failed(Failure::Throttled { .. }) => Condition::Throttled,
            Self::Failed(Failure::Denied) => Condition::Denied,
            Self::Failed(Failure::Unavailable | Failure::Lost) => Condition::Unreachable,
        }
    }
}

impl Trouble {
    /// No answer, or half of one.
    pub(crate) fn lost(detail: impl Into<String>) -> Self {
        Self { fault: Fault::Failed(Failure::Lost), detail: detail.into() }
    }

    /// An answer that makes no sense.
    pub(crate) fn nonsense(detail: impl Into<String>) -> Self {
        Self { fault: Fault::Failed(Failure::Unavailable), detail: detail.into() }
    }
}

/// Sends it. The error is for people: the connection broke, or there was none.
pub(crate) async fn send(client: &Client, request: http::Request<Body>) -> Result<Answer, String> {
    let response = client.send(request).await.map_err(|error| chain(&error))?;
    let asked = response.headers().get(http::header::RETRY_AFTER);
    // RFC 9110 10.2.3 also allows a date, which the API server does not use.
    let retry_after = asked.and_then(|v| v.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
    Ok(Answer { status: response.status().as_u16(), retry_after, body: response.into_body() })
}

/// Sends it, and gives only a success; an answer that is silent for so long is none.
pub(crate) async fn open(
    client: &Client,
    request: http::Request<Vec<u8>>,
    silence: Duration,
) -> Result<Answer, Trouble> {
    let sent = timeout(silence, send(client, request.map(Body::from))).await;
    let answer = sent.map_err(|_| Trouble::lost("no answer in time"))?.map_err(Trouble::lost)?;
    match answer.status {
        200..=299 => Ok(answer),
        status => {
            let fault = Fault::of(status, answer.retry_after);
            let said = timeout(silence, answer.whole(STATUS_MAX)).await;
            let said = said.ok().and_then(Result::ok).unwrap_or_default();
            Err(Trouble { fault, detail: format!("{status}: {}", message(&said)) })
        }
    }
}

/// Of a Status, which holds a few causes.
const STATUS_MAX: usize = 256 << 10;

impl Answer {
    /// All of it, at most `max` bytes.
    pub(crate) async fn whole(self, max: usize) -> Result<Vec<u8>, String> {
        let body = Limited::new(self.body, max).collect().await.map_err(|error| error.to_string())?;
        Ok(body.to_bytes().to_vec())
    }

    /// All of it, at most `max` bytes and with no silence longer than `silence` in it.
    pub(crate) async fn whole_in_time(mut self, max: usize, silence: Duration) -> Result<Vec<u8>, Trouble> {
        let mut all = Vec::new();
        while let Some(frame) =
            timeout(silence, self.body.frame()).await.map_err(|_| Trouble::lost("it fell silent in an answer"))?
        {
            let frame = frame.map_err(|error| Trouble::lost(error.to_string()))?;
            all.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if all.len() > max {
                return Err(Trouble::nonsense(format!("an answer of more than {max} bytes")));
            }
        }
        Ok(all)
    }

    /// Line by line, each at most `max` bytes.
    pub(crate) fn lines(self, max: usize) -> Lines {
        Lines { body: self.body, buffer: Vec::new(), searched: 0, max }
    }
}

/// An answer that goes on.
pub(crate) struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// There is no end of a line before this.
    searched: usize,
    max: usize,
}

impl Lines {
    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.searched + at + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > self.max {
                return Err(Trouble::nonsense(format!("a line of more than {} bytes", self.max)));
            }
            let frame = timeout_at(deadline, self.body.frame()).await;
            match frame.map_err(|_| Trouble::lost("a watch that did not end when it should"))? {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Trouble::lost("it broke off within a line")),
                Some(Err(error)) => return Err(Trouble::lost(chain(&error))),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }
}

/// `message` of a Status, else the start of the text.
pub(crate) fn message(body: &[u8]) -> String {
    const SHOWN: usize = 200;
    let status: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = status.as_ref().and_then(|s| s["message"].as_str()).map(str::to_owned);
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned());
    text.chars().take(SHOWN).collect()
}
