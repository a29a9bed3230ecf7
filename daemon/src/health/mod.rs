//! Runs one probe of a health gate or of an endpoint's check. What its result means is decided by `bascule_core::health`.

mod grpc;
mod http;
#[cfg(test)]
mod tests;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bascule_core::health::ProbeKind;
use hyper::Uri;
use tokio::net::TcpStream;

/// Asks once: healthy or not, and what was seen, for people. Never takes longer than `timeout`; a probe that is dropped leaves nothing
/// behind. Each probe has a connection of its own: a kept one would go on answering for a server that takes no new ones.
pub async fn probe(kind: &ProbeKind, timeout: Duration) -> (bool, String) {
    let result = tokio::time::timeout(timeout, async {
        match kind {
            ProbeKind::Tcp(address) => connect_to(*address).await.map(|_stream| "connected".to_owned()),
            ProbeKind::Http { url, expect } => {
                let target = Target::of(url, "http", 80)?;
                http::get(target.connect().await?, &target, *expect).await
            }
            ProbeKind::Https { url, expect, trust, client } => {
                let target = Target::of(url, "https", 443)?;
                let stream = target.connect().await?;
                let stream = tls::handshake(stream, target.host(), trust, client.as_ref()).await?;
                http::get(stream, &target, *expect).await
            }
            ProbeKind::Grpc { address, service } => {
                grpc::check(connect_to(*address).await?, *address, service, timeout).await
            }
        }
    });
    match result.await {
        Ok(Ok(seen)) => (true, seen),
        Ok(Err(seen)) => (false, seen),
        Err(_) => (false, format!("no answer within {timeout:?}")),
    }
}

/// What a URL names.
struct Target {
    uri: Uri,
    port: u16,
}

impl Target {
    fn of(url: &str, scheme: &str, default_port: u16) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|e| format!("{url}: {e}"))?;
        if uri.scheme_str() != Some(scheme) {
            return Err(format!("{url}: the scheme is not {scheme}"));
        }
        let authority = uri.authority().ok_or_else(|| format!("{url}: no host"))?;
        let port = authority.port_u16().unwrap_or(default_port);
        Ok(Self { uri, port })
    }

    /// The host; an IPv6 address without the brackets that a URL puts around it.
    fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    async fn connect(&self) -> Result<TcpStream, String> {
        match self.host().parse::<IpAddr>() {
            Ok(ip) => connect_to(SocketAddr::new(ip, self.port)).await,
            Err(_) => TcpStream::connect((self.host(), self.port)).await.map_err(|e| refusal(&e)),
        }
    }
}

async fn connect_to(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|e| refusal(&e))
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
