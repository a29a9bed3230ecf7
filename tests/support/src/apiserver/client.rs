//! A plain client of the API server: JSON over HTTP/1.1 over TLS, one request a connection unless it is kept, from inside its namespace.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

use super::kept::Kept;
use crate::{LabError, Netns, Result, http};

/// A request is answered within this time or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Client {
    netns: Netns,
    server: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Client {
    pub(super) fn new(netns: &Netns, server: SocketAddr, ca: &Path) -> Result<Self> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| LabError::answer(what, error.to_string());
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca).map_err(|e| wrong("the lab's CA", &e))?;
        roots.add(ca).map_err(|e| wrong("the lab's CA", &e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| wrong("TLS", &e))?;
        let tls = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { netns: netns.clone(), server, tls: Arc::new(tls) })
    }

    /// What it accepts.
    pub(super) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls)
    }

    /// Status and body; a body that is not JSON is given as a string.
    pub(super) fn request(&self, token: &str, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let what = format!("{method} {path} on {}", self.server);
        let body = body.map(Value::to_string).unwrap_or_default();
        let form = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: kubernetes\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: {form}\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let answer = self.netns.run(|| self.talk(&format!("{head}{body}"))).map_err(LabError::io(what.clone()))?;
        let (status, text) = http::parse(&answer)
            .ok_or_else(|| LabError::answer(what, String::from_utf8_lossy(&answer).into_owned()))?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// A connection that is kept, of the namespace of the calling thread, which is to be [`Self::netns`].
    pub(super) fn keep(&self) -> std::io::Result<Kept> {
        self.connect().map(Kept::new)
    }

    fn connect(&self) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::IpAddress(IpAddr::into(self.server.ip()));
        let session = ClientConnection::new(self.tls.clone(), name).map_err(std::io::Error::other)?;
        Ok(StreamOwned::new(session, stream))
    }

    fn talk(&self, request: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}
