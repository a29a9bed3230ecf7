//! Runs one probe of a health gate. What its result means is decided by `bascule_core::health`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bascule_core::health::ProbeKind;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Asks once: healthy or not, and what was seen, for people. Never takes longer than `timeout`; a probe that is dropped leaves nothing
/// behind. Each probe has a connection of its own: a kept one would go on answering for a server that takes no new ones.
pub async fn probe(kind: &ProbeKind, timeout: Duration) -> (bool, String) {
    let result = tokio::time::timeout(timeout, async {
        match kind {
            ProbeKind::Tcp(address) => connect_to(*address).await.map(|_stream| "connected".to_owned()),
            ProbeKind::Http { url, expect } => get(url, *expect).await,
        }
    });
    match result.await {
        Ok(Ok(seen)) => (true, seen),
        Ok(Err(seen)) => (false, seen),
        Err(_) => (false, format!("no answer within {timeout:?}")),
    }
}

async fn connect_to(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|e| refusal(&e))
}

/// `GET` over HTTP/1.1; redirects are answers like any other, the body is not read.
async fn get(url: &str, expect: (u16, u16)) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
    if uri.scheme_str() != Some("http") {
        return Err(format!("{url}: only http:// is probed"));
    }
    let authority = uri.authority().ok_or_else(|| format!("{url}: no host"))?;
    let port = authority.port_u16().unwrap_or(80);
    // An IPv6 address is written in brackets in a URL.
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = match host.parse::<IpAddr>() {
        Ok(ip) => connect_to(SocketAddr::new(ip, port)).await?,
        Err(_) => TcpStream::connect((host, port)).await.map_err(|e| refusal(&e))?,
    };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("http: {e}"))?;
    let request = Request::get(uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(HOST, authority.as_str())
        .header(USER_AGENT, "bascule")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("{url}: {e}"))?;
    let answer = sender.send_request(request);
    tokio::pin!(connection);
    // The connection does the work and is dropped with this future. It may end before the answer is picked up.
    tokio::pin!(answer);
    let response = tokio::select! {
        biased;
        response = &mut answer => response,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    let status = response.map_err(|e| format!("http: {e}"))?.status();
    if (expect.0..=expect.1).contains(&status.as_u16()) { Ok(status.to_string()) } else { Err(status.to_string()) }
}

/// A failed connect, in words.
fn refusal(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: refused".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network unreachable".to_owned(),
        _ => format!("connect: {error}"),
    }
}
