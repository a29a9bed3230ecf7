//! `grpc.health.v1.Health/Check` ("GRPC Health Checking Protocol") over HTTP/2 with prior knowledge ("gRPC over HTTP2").

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, TE, USER_AGENT};
use hyper::rt::Executor;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The answer is a few bytes; a server that sends more is not one of these.
const ANSWER_MAX: usize = 4096;
/// A message is preceded by a flag (compressed or not) and its length in 4 bytes.
const PREFIX: usize = 5;

#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckResponse {
    /// UNKNOWN = 0, SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3.
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

/// Asks for `service`; SERVING is healthy.
pub(super) async fn check(
    stream: TcpStream,
    address: SocketAddr,
    service: &str,
    timeout: Duration,
) -> Result<String, String> {
    let failed = |e: hyper::Error| format!("grpc: {e}");
    let tasks = Tasks::default();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(tasks.clone(), TokioIo::new(stream)).await.map_err(failed)?;
    // Its end is seen by the request.
    tasks.execute(async { drop(connection.await) });
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, "bascule")
        // At most 8 digits: with milliseconds a day.
        .header("grpc-timeout", format!("{}m", timeout.as_millis().min(99_999_999)))
        .body(Full::new(frame(&HealthCheckRequest { service: service.to_owned() })))
        .map_err(|e| format!("grpc: {e}"))?;
    let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(format!("http: {}", head.status));
    }
    let kind = head.headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if !kind.starts_with(b"application/grpc") {
        return Err("the answer is not gRPC".into());
    }
    let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|e| format!("grpc: {e}"))?;
    // Without a message the status stands in the head.
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    status(&trailers)?;
    answer(&body.to_bytes())
}

/// A message with its prefix.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &body].concat().into()
}

/// The status of the call, `grpc-status`, must be OK.
fn status(trailers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some("5") => Err("grpc: NOT_FOUND: the server does not know the service".into()),
        Some("12") => Err("grpc: UNIMPLEMENTED: the server has no health service".into()),
        Some(other) => Err(format!("grpc: status {other}: {}", text("grpc-message").unwrap_or("no message"))),
        None => Err("grpc: no status".into()),
    }
}

fn answer(bytes: &[u8]) -> Result<String, String> {
    let malformed = || "grpc: the answer is malformed".to_owned();
    let (prefix, message) = bytes.split_at_checked(PREFIX).ok_or_else(malformed)?;
    let length = prefix[1..].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
    if prefix[0] != 0 || length != message.len() {
        return Err(malformed());
    }
    let response = HealthCheckResponse::decode(message).map_err(|_| malformed())?;
    match response.status {
        1 => Ok("SERVING".into()),
        2 => Err("NOT_SERVING".into()),
        3 => Err("SERVICE_UNKNOWN".into()),
        _ => Err("UNKNOWN".into()),
    }
}

/// The tasks of one connection; they end with it, whatever the server does.
#[derive(Clone, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _handle = tasks.spawn(async { drop(future.await) });
    }
}
