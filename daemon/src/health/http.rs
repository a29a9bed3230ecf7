//! `GET` over HTTP/1.1; redirects are answers like any other, the body is not read.

use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Target;

pub(super) async fn get<S>(stream: S, target: &Target, expect: (u16, u16)) -> Result<String, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("http: {e}"))?;
    let authority = target.uri.authority().map_or("", |a| a.as_str());
    let request = Request::get(target.uri.path_and_query().map_or("/", |p| p.as_str()))
        .header(HOST, authority)
        .header(USER_AGENT, "bascule")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("{}: {e}", target.uri))?;
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
