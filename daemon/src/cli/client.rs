//! HTTP/1 over the daemon's unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::UnixStream;

/// The daemon answers within 5 s, or says that its loop does not; this is longer.
const ANSWER: Duration = Duration::from_secs(8);

/// Why an answer could not be had. Each is one line for a person.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers on {}: is it running?", socket.display())]
    NoDaemon { socket: PathBuf },
    /// Not root.
    #[error("{} is for root only: try again with sudo", socket.display())]
    Denied { socket: PathBuf },
    /// The daemon says no, and why.
    #[error("{0}")]
    Refused(String),
    /// It took the question and says nothing.
    #[error("the daemon on {} took the question and did not answer within {} s", socket.display(), ANSWER.as_secs())]
    Silent { socket: PathBuf },
    /// Something else listens there, or the connection broke.
    #[error("the answer on {} cannot be read: {what}", socket.display())]
    Broken { socket: PathBuf, what: String },
    /// The daemon is of another version.
    #[error("the daemon's answer is not understood (is it of another version?): {0}")]
    Answer(String),
    /// Standard output cannot be written.
    #[error("cannot write: {0}")]
    Output(io::Error),
}

/// Asks one daemon.
pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The body of a `GET`.
    pub(super) async fn get(&self, path: &str) -> Result<String, ClientError> {
        self.whole(Method::GET, path, None).await
    }

    /// The body of the answer to a `POST` of a JSON value.
    pub(super) async fn post(&self, path: &str, body: Value) -> Result<String, ClientError> {
        self.whole(Method::POST, path, Some(body)).await
    }

    /// Every line of a body as it comes, until it ends, or `show` finds the output closed.
    pub(super) async fn lines(
        &self,
        path: &str,
        mut show: impl FnMut(&str) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let mut body = self.timed(self.send(Method::GET, path, None)).await?.into_body();
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|e| self.broken(e))?.into_data() else { continue };
            rest.extend_from_slice(&data);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match show(String::from_utf8_lossy(&line).trim_end()) {
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    shown => shown.map_err(ClientError::Output)?,
                }
            }
        }
        Ok(())
    }

    async fn whole(&self, method: Method, path: &str, body: Option<Value>) -> Result<String, ClientError> {
        let exchange = async {
            let answer = self.send(method, path, body).await?;
            let bytes = answer.into_body().collect().await.map_err(|e| self.broken(e))?.to_bytes();
            String::from_utf8(bytes.into()).map_err(|e| self.broken(e))
        };
        self.timed(exchange).await
    }

    async fn timed<T>(&self, exchange: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let silent = || ClientError::Silent { socket: self.socket.clone() };
        tokio::time::timeout(ANSWER, exchange).await.map_err(|_| silent())?
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(e))?;
        // Its error is the request's error as well.
        tokio::spawn(async move { drop(connection.await) });
        let body = body.map(|value| value.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "bascule")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("method, path and headers are constants of this program");
        let answer = sender.send_request(request).await.map_err(|e| self.broken(e))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let bytes = answer.into_body().collect().await.map_err(|e| self.broken(e))?.to_bytes();
        let said = serde_json::from_slice::<Value>(&bytes).ok();
        let why = said.as_ref().and_then(|v| v["error"].as_str()).map_or_else(|| code.to_string(), str::to_owned);
        Err(ClientError::Refused(why))
    }

    fn unreachable(&self, error: &io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon { socket },
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
            _ => ClientError::Broken { socket, what: error.to_string() },
        }
    }

    fn broken(&self, error: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), what: error.to_string() }
    }
}
