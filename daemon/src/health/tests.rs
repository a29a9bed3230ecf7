//! Probes against servers of this process.

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
    assert_eq!(probe(&kind, LONG).await, (false, "https://127.0.0.1/: the scheme is not http".to_owned()));
}

mod tls {
    use std::sync::Arc;

    use bascule_core::health::{ClientCertificate, Trust};
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use rustls::crypto::ring;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    type Authority = CertifiedIssuer<'static, KeyPair>;

    fn authority(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
    }

    /// A certificate of its making, and the key.
    fn leaf(authority: &Authority, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names");
        (params.signed_by(&key, authority).expect("a certificate"), key)
    }

    /// An authority, and a server of its making with these names that answers one request.
    async fn server(name: &str, names: &[&str]) -> (SocketAddr, String, JoinHandle<Result<String, String>>) {
        let authority = authority(name);
        let (address, task) = serve(&authority, names, None).await;
        (address, authority.pem(), task)
    }

    /// A server that answers one request, of a client of `clients` only where they are given.
    async fn serve(
        authority: &Authority,
        names: &[&str],
        clients: Option<&Authority>,
    ) -> (SocketAddr, JoinHandle<Result<String, String>>) {
        let (certificate, key) = leaf(authority, names);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions");
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.der().clone()).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let config = config.with_single_cert(vec![certificate.der().clone()], key).expect("a configuration");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.map_err(|e| e.to_string())?;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.map_err(|e| e.to_string())?);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.map_err(|e| e.to_string())?;
            stream.flush().await.map_err(|e| e.to_string())?;
            Ok(String::from_utf8_lossy(&request).into_owned())
        });
        (address, task)
    }

    fn https(address: SocketAddr, trust: Trust) -> ProbeKind {
        ProbeKind::Https { url: format!("https://{address}/livez"), expect: (200, 299), trust, client: None }
    }

    fn signed_by(pem: &str, name: Option<&str>) -> Trust {
        Trust::Authorities { pem: pem.into(), name: name.map(Into::into) }
    }

    #[tokio::test]
    async fn a_certificate_of_the_authority_with_the_right_name_is_accepted() {
        for (names, name) in [(["127.0.0.1"], None), (["shop.example"], Some("shop.example"))] {
            let (address, pem, task) = server("ours", &names).await;
            let result = probe(&https(address, signed_by(&pem, name)), LONG).await;
            assert_eq!(result, (true, "200 OK".to_owned()), "{names:?}");
            let request = task.await.expect("server").expect("a request");
            assert!(request.starts_with("GET /livez HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
        }
    }

    #[tokio::test]
    async fn another_name_and_another_authority_are_refused() {
        let (address, pem, _task) = server("ours", &["shop.example"]).await;
        let (ok, detail) = probe(&https(address, signed_by(&pem, Some("other.example"))), LONG).await;
        assert!(!ok && detail.starts_with("tls: ") && detail.contains("not valid for name"), "{detail}");
        let (address, _pem, task) = server("ours", &["127.0.0.1"]).await;
        let (_, other, _other_task) = server("another", &["127.0.0.1"]).await;
        let (ok, detail) = probe(&https(address, signed_by(&other, None)), LONG).await;
        assert!(!ok && detail.contains("UnknownIssuer"), "{detail}");
        assert!(task.await.expect("server").is_err(), "no request was sent");
    }

    #[tokio::test]
    async fn anybody_is_anybody() {
        let (address, _pem, _task) = server("ours", &["elsewhere.example"]).await;
        assert_eq!(probe(&https(address, Trust::Anybody), LONG).await, (true, "200 OK".to_owned()));
    }

    /// As the API servers of k3s and rke2, which tell nobody else how they are.
    #[tokio::test]
    async fn a_server_that_demands_a_certificate_is_shown_one_and_answers_nobody_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let (ours, others) = (authority("ours"), authority("others"));
        let files =
            ClientCertificate { certificate: dir.path().join("client.crt"), key: dir.path().join("client.key") };
        // Healthy or not, in which words, and whether the server has read a request. In TLS 1.3 its refusal comes after the client's part
        // of the handshake, so the words are those of whatever the client did then.
        let ask = async |client: Option<ClientCertificate>| {
            let (address, task) = serve(&ours, &["127.0.0.1"], Some(&ours)).await;
            let ProbeKind::Https { url, expect, .. } = https(address, Trust::Anybody) else { panic!("it is https") };
            let trust = signed_by(&ours.pem(), None);
            let (ok, detail) = probe(&ProbeKind::Https { url, expect, trust, client }, LONG).await;
            (ok, detail, task.await.expect("a server").is_ok())
        };
        let (ok, detail, read) = ask(None).await;
        assert!(!ok && !read, "{detail}");
        // Not there yet: they are looked for at each probe.
        let (ok, detail, read) = ask(Some(files.clone())).await;
        assert!(!ok && !read && detail.contains("client.crt") && detail.contains("No such file"), "{detail}");
        let write = |(certificate, key): (rcgen::Certificate, KeyPair)| {
            std::fs::write(&files.certificate, certificate.pem()).expect("written");
            std::fs::write(&files.key, key.serialize_pem()).expect("written");
        };
        write(leaf(&others, &["scheduler"]));
        let (ok, detail, read) = ask(Some(files.clone())).await;
        assert!(!ok && !read, "{detail}");
        write(leaf(&ours, &["scheduler"]));
        assert_eq!(ask(Some(files.clone())).await, (true, "200 OK".to_owned(), true));
        // The certificate of one and the key of another.
        std::fs::write(&files.key, KeyPair::generate().expect("a key").serialize_pem()).expect("written");
        let (ok, detail, read) = ask(Some(files.clone())).await;
        assert!(!ok && !read && detail.starts_with("tls: "), "{detail}");
        std::fs::write(&files.key, "no key").expect("written");
        let (ok, detail, read) = ask(Some(files)).await;
        assert!(!ok && !read && detail.contains("client.key"), "{detail}");
    }

    #[tokio::test]
    async fn a_server_without_tls_and_a_silent_one_have_failed() {
        let (address, _server) = super::server("HTTP/1.1 200 OK\r\n\r\n").await;
        let short = Duration::from_millis(50);
        let (ok, detail) = probe(&https(address, Trust::Anybody), short).await;
        assert!(!ok && (detail.starts_with("tls: ") || detail.starts_with("no answer")), "{detail}");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let result = probe(&https(address, Trust::Anybody), short).await;
        assert_eq!(result, (false, "no answer within 50ms".to_owned()));
    }
}

mod grpc {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::{Bytes, Frame, Incoming};
    use hyper::header::HeaderMap;
    use hyper::service::service_fn;
    use hyper::{Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use prost::Message;

    use super::super::grpc::{HealthCheckRequest, HealthCheckResponse, frame};
    use super::*;

    /// What a server answers: head, message, trailers.
    #[derive(Clone, Copy)]
    struct Answer {
        http: u16,
        kind: &'static str,
        message: Option<i32>,
        status: Option<&'static str>,
    }

    const SERVING: Answer = Answer { http: 200, kind: "application/grpc+proto", message: Some(1), status: Some("0") };

    type Body = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

    fn response(answer: Answer) -> Response<Body> {
        let mut frames = Vec::new();
        let builder = Response::builder().status(answer.http).header("content-type", answer.kind);
        if let Some(status) = answer.message {
            frames.push(Ok(Frame::data(frame(&HealthCheckResponse { status }))));
        }
        let mut trailers = HeaderMap::new();
        if let Some(status) = answer.status {
            trailers.insert("grpc-status", status.parse().expect("a value"));
            trailers.insert("grpc-message", "words".parse().expect("a value"));
        }
        frames.push(Ok(Frame::trailers(trailers)));
        builder.body(StreamBody::new(futures_util::stream::iter(frames))).expect("a response")
    }

    /// Serves one connection; gives the path, the `te` header and the message of the request.
    async fn server(answer: Answer) -> (SocketAddr, tokio::sync::mpsc::Receiver<(String, String, Bytes)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (tell, requests) = tokio::sync::mpsc::channel(4);
        let _task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("accept");
            let service = service_fn(|request: Request<Incoming>| {
                let tell = tell.clone();
                async move {
                    let path = request.uri().path().to_owned();
                    let te = request.headers()["te"].to_str().expect("text").to_owned();
                    let body = request.into_body().collect().await.expect("a body").to_bytes();
                    tell.send((path, te, body)).await.expect("a test");
                    Ok::<_, Infallible>(response(answer))
                }
            });
            // Ends when the probe closes.
            let _end = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
        (address, requests)
    }

    async fn ask(answer: Answer) -> (bool, String) {
        let (address, _requests) = server(answer).await;
        probe(&ProbeKind::Grpc { address, service: String::new() }, LONG).await
    }

    #[tokio::test]
    async fn serving_is_healthy_and_the_service_is_named() {
        let (address, mut requests) = server(SERVING).await;
        let kind = ProbeKind::Grpc { address, service: "shop.v1.Cart".into() };
        assert_eq!(probe(&kind, LONG).await, (true, "SERVING".to_owned()));
        let (path, te, body) = requests.recv().await.expect("a request");
        assert_eq!((path.as_str(), te.as_str()), ("/grpc.health.v1.Health/Check", "trailers"));
        // Flag, length, then field 1, wire type 2, 12 bytes.
        assert_eq!(&body[..], b"\0\0\0\0\x0e\x0a\x0cshop.v1.Cart");
        assert_eq!(HealthCheckRequest::decode(&body[5..]).expect("a message").service, "shop.v1.Cart");
    }

    #[tokio::test]
    async fn anything_else_is_not() {
        let answers = [
            (Answer { message: Some(2), ..SERVING }, "NOT_SERVING"),
            (Answer { message: Some(3), ..SERVING }, "SERVICE_UNKNOWN"),
            (Answer { message: Some(0), ..SERVING }, "UNKNOWN"),
            (
                Answer { message: None, status: Some("5"), ..SERVING },
                "grpc: NOT_FOUND: the server does not know the service",
            ),
            (
                Answer { message: None, status: Some("12"), ..SERVING },
                "grpc: UNIMPLEMENTED: the server has no health service",
            ),
            (Answer { status: Some("14"), ..SERVING }, "grpc: status 14: words"),
            (Answer { status: None, ..SERVING }, "grpc: no status"),
            (Answer { message: None, ..SERVING }, "grpc: the answer is malformed"),
            (Answer { http: 503, ..SERVING }, "http: 503 Service Unavailable"),
            (Answer { kind: "text/html", ..SERVING }, "the answer is not gRPC"),
        ];
        for (answer, detail) in answers {
            assert_eq!(ask(answer).await, (false, detail.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_server_of_http1_and_a_silent_one_have_failed() {
        let (address, _server) = super::server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let (ok, detail) = probe(&ProbeKind::Grpc { address, service: String::new() }, LONG).await;
        assert!(!ok && detail.starts_with("grpc: "), "{detail}");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let kind = ProbeKind::Grpc { address, service: String::new() };
        assert_eq!(probe(&kind, Duration::from_millis(50)).await, (false, "no answer within 50ms".to_owned()));
    }
}
