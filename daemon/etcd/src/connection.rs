//! One connection to one member, which ends when it is dropped, and the choice of the member.

use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bascule_elector::chain;
use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;
use tonic::Status;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataValue;
use tonic_prost::ProstCodec;

use crate::tls::Pem;
use crate::{Access, Endpoint};

/// A silent peer is asked for a sign of life this often while something is under way: a watch may be silent for days. etcd closes
/// connections that ask more often than every 5 s (`--grpc-keepalive-min-time`).
const PING: Duration = Duration::from_secs(6);
/// Without that sign after this time the connection is over.
const PONG: Duration = Duration::from_secs(3);

/// A connection. It carries one request at a time, or one watch.
pub(crate) struct Connection {
    wire: Wire,
    endpoint: Endpoint,
    /// Index of the endpoint.
    pub(crate) at: usize,
    made_with: Option<Pem>,
    /// Ends what runs in the background for it.
    socket: std::net::TcpStream,
}

impl Drop for Connection {
    fn drop(&mut self) {
        // It may be gone already.
        let _gone = self.socket.shutdown(Shutdown::Both);
    }
}

impl Connection {
    /// Connects to the first member that lets us, beginning with number `first`. Another is tried as soon as one refuses, or keeps silent
    /// for its share of `patience`; nothing was asked of any until then. Says why none could be had.
    pub(crate) async fn open(access: &Access, first: usize, patience: Duration) -> Result<Self, String> {
        let made_with = match access.tls() {
            Some(files) => Some(Pem::read(files).await?),
            None => None,
        };
        let tls = match (&made_with, access.tls()) {
            (Some(pem), Some(files)) => Some(pem.config(files)?),
            _ => None,
        };
        let all = access.endpoints();
        let share = patience / u32::try_from(all.len() + 1).unwrap_or(u32::MAX);
        let mut rest = (0..all.len()).map(|step| (first + step) % all.len());
        let (mut attempts, mut said) = (JoinSet::new(), Vec::new());
        loop {
            if let Some(at) = rest.next() {
                let (endpoint, tls) = (all[at].clone(), tls.clone());
                attempts.spawn(async move { (at, connect(endpoint, tls).await) });
            }
            let silent = sleep_until(Instant::now() + if rest.len() == 0 { patience } else { share });
            tokio::select! {
                biased;
                Some(ended) = attempts.join_next() => match ended {
                    Ok((at, Ok((wire, endpoint, socket)))) => return Ok(Self { wire, endpoint, at, made_with, socket }),
                    Ok((at, Err(why))) => said.push(format!("{}: {why}", all[at])),
                    Err(error) => said.push(error.to_string()),
                },
                () = silent => {}
            }
            if rest.len() == 0 && attempts.is_empty() {
                return Err(said.join("; "));
            }
        }
    }

    /// Was it made with the files as they are now? Files that cannot be read right now are being replaced, and tell nothing.
    pub(crate) async fn is_fresh(&self, access: &Access) -> bool {
        match access.tls() {
            Some(files) => Pem::read(files).await.map_or(true, |pem| self.made_with.as_ref() == Some(&pem)),
            None => true,
        }
    }

    pub(crate) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// One message there, one back.
    pub(crate) async fn unary<Q, A>(&self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let answer = grpc.unary(asked(message), PathAndQuery::from_static(path), ProstCodec::default()).await?;
        Ok(answer.into_inner())
    }

    /// Messages there, and messages back for as long as it lasts.
    pub(crate) async fn stream<Q, A>(
        &self,
        path: &'static str,
        messages: impl futures_util::Stream<Item = Q> + Send + 'static,
    ) -> Result<tonic::Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready().await?;
        let codec = ProstCodec::default();
        let answer = grpc.streaming(asked(messages), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Wire>, Status> {
        let mut grpc = Grpc::with_origin(self.wire.clone(), self.endpoint.uri().clone());
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(grpc)
    }
}

/// A member that has lost its leader says so instead of waiting for one.
fn asked<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}

type Connected = (Wire, Endpoint, std::net::TcpStream);

async fn connect(endpoint: Endpoint, tls: Option<Arc<ClientConfig>>) -> Result<Connected, String> {
    let stream = TcpStream::connect((endpoint.host(), endpoint.port())).await.map_err(|e| chain(&e))?;
    stream.set_nodelay(true).map_err(|e| chain(&e))?;
    let stream = stream.into_std().map_err(|e| chain(&e))?;
    let socket = stream.try_clone().map_err(|e| chain(&e))?;
    let stream = TcpStream::from_std(stream).map_err(|e| chain(&e))?;
    let wire = match tls {
        Some(tls) => {
            let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|e| chain(&e))?;
            let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| chain(&e))?;
            Wire::over(stream).await?
        }
        None => Wire::over(stream).await?,
    };
    Ok((wire, endpoint, socket))
}

/// HTTP/2 as tonic wants it.
#[derive(Clone)]
struct Wire(SendRequest<Body>);

impl Wire {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, String> {
        let mut builder = Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
        let (wire, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(|e| chain(&e))?;
        // Its end is seen by the request.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self(wire))
    }
}

impl GrpcService<Body> for Wire {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
