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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    const LONG: Duration = Duration::from_secs(10);

    /// Answers one connection with these bytes and returns the request.
    async fn server(answer: &'static str) -> (SocketAddr, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let byte = stream.read_u8().await.expect("request");
                request.push(byte);
            }
            stream.write_all(answer.as_bytes()).await.expect("answer");
            String::from_utf8(request).expect("text")
        });
        (address, task)
    }

    async fn http(address: SocketAddr, path: &str, expect: (u16, u16), timeout: Duration) -> (bool, String) {
        let kind = ProbeKind::Http { url: format!("http://{address}{path}"), expect };
        probe(&kind, timeout).await
    }

    /// A port that nobody listens on: it is taken, but not opened, as long as the socket lives.
    fn closed_port() -> (tokio::net::TcpSocket, SocketAddr) {
        let socket = tokio::net::TcpSocket::new_v4().expect("socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bind");
        let address = socket.local_addr().expect("address");
        (socket, address)
    }

    #[tokio::test]
    async fn tcp_is_healthy_when_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let kind = ProbeKind::Tcp(listener.local_addr().expect("address"));
        assert_eq!(probe(&kind, LONG).await, (true, "connected".to_owned()));
        let (_socket, address) = closed_port();
        assert_eq!(probe(&ProbeKind::Tcp(address), LONG).await, (false, "connect: refused".to_owned()));
    }

    #[tokio::test]
    async fn the_status_decides_with_both_ends_of_the_range() {
        for (answer, expect, wanted) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", (200, 399), (true, "200 OK")),
            ("HTTP/1.1 399 Odd\r\ncontent-length: 0\r\n\r\n", (200, 399), (true, "399 <unknown status code>")),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", (200, 399), (false, "503 Service Unavailable")),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", (503, 503), (true, "503 Service Unavailable")),
            // A redirect is not followed.
            ("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n\r\n", (200, 299), (false, "302 Found")),
        ] {
            let (address, server) = server(answer).await;
            let (ok, detail) = http(address, "/livez?verbose", expect, LONG).await;
            assert_eq!((ok, detail.as_str()), wanted);
            let request = server.await.expect("server");
            assert!(request.starts_with("GET /livez?verbose HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
            assert!(request.contains("connection: close\r\n"), "{request}");
        }
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_or_nonsense_has_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let short = Duration::from_millis(20);
        assert_eq!(http(address, "/", (200, 399), short).await, (false, "no answer within 20ms".to_owned()));
        for answer in ["", "SSH-2.0-x\r\n", "HTTP/1.1 20"] {
            let (address, _server) = server(answer).await;
            let (ok, detail) = http(address, "/", (200, 399), LONG).await;
            assert!(!ok && detail.starts_with("http: "), "{detail}");
        }
        let (_socket, address) = closed_port();
        assert_eq!(http(address, "/", (200, 399), LONG).await, (false, "connect: refused".to_owned()));
    }

    #[tokio::test]
    async fn an_ipv6_literal_is_understood_and_other_schemes_are_not() {
        let listener = TcpListener::bind("[::1]:0").await.expect("bind");
        let url = format!("http://{}/", listener.local_addr().expect("address"));
        let kind = ProbeKind::Http { url, expect: (200, 299) };
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = [0; 1024];
            let _length = stream.read(&mut request).await.expect("request");
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("answer");
            stream
        };
        let (result, _stream) = tokio::join!(probe(&kind, LONG), serve);
        assert_eq!(result, (true, "204 No Content".to_owned()));
        let kind = ProbeKind::Http { url: "https://127.0.0.1/".to_owned(), expect: (200, 299) };
        assert_eq!(probe(&kind, LONG).await, (false, "https://127.0.0.1/: only http:// is probed".to_owned()));
    }
}
