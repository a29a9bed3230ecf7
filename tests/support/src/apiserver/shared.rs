//! Several API servers over one store, each in a namespace of its own, as on the control-plane nodes of a cluster; and a client outside that
//! says which of them answered.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::pki::Pki;
use super::{etcd_args, find, server_args};
use crate::pki::Pair;
use crate::{Lab, LabError, Netns, Process, Result, http};

/// The store, and what its servers are started with.
#[derive(Debug)]
pub struct SharedStore {
    /// etcd; its data lies on a tmpfs that goes away with it.
    pub etcd: Process,
    address: IpAddr,
    pki: Pki,
}

impl SharedStore {
    /// Starts the store in `netns`, which has `address`, for `servers` servers that are reached by 127.0.0.1 and `reached`.
    ///
    /// # Errors
    /// When a program is missing or a file cannot be written.
    pub fn start(lab: &Lab, netns: &Netns, address: IpAddr, servers: usize, reached: &[IpAddr]) -> Result<Self> {
        let all: Vec<IpAddr> = reached.iter().copied().chain([IpAddr::from([127, 0, 0, 1])]).collect();
        let pki = Pki::create(&lab.directory().join("control-plane"), servers, &all)?;
        let etcd = lab.process("etcd", netns, &find()?.etcd).args(etcd_args(address)).private_run().spawn()?;
        Ok(Self { etcd, address, pki })
    }

    /// Starts server `number` (from 1) in `netns` and does not wait for it.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn serve(&self, lab: &Lab, netns: &Netns, number: usize) -> Result<Process> {
        let leaf = number.checked_sub(1).and_then(|index| self.pki.servers.get(index));
        let leaf = leaf.ok_or_else(|| LabError::answer("the lab's PKI", format!("it has no server {number}")))?;
        let args = server_args(&self.pki, leaf, self.address);
        lab.process(&format!("kube-apiserver-{number}"), netns, find()?.apiserver).args(args).spawn()
    }

    /// A client in `netns` that accepts these servers and no others.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub fn client(&self, netns: &Netns) -> Result<TlsClient> {
        let wrong = |error: &dyn std::fmt::Display| LabError::answer("TLS of the lab", error.to_string());
        let pem = |path: &Path| CertificateDer::from_pem_file(path).map_err(|e| wrong(&e));
        let mut roots = RootCertStore::empty();
        roots.add(pem(&self.pki.ca)?).map_err(|e| wrong(&e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut tls = builder.map_err(|e| wrong(&e))?.with_root_certificates(roots).with_no_client_auth();
        // Which server answered is read off its certificate, which a resumed session would not show.
        tls.resumption = rustls::client::Resumption::disabled();
        let of_server = |leaf: &Pair| pem(&leaf.certificate);
        let servers = self.pki.servers.iter().map(of_server).collect::<Result<_>>()?;
        Ok(TlsClient { netns: netns.clone(), tls: Arc::new(tls), servers })
    }
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status of HTTP.
    pub status: u16,
    /// The number of the server that answered, from 1.
    pub server: usize,
}

/// A client without credentials.
#[derive(Debug, Clone)]
pub struct TlsClient {
    netns: Netns,
    tls: Arc<ClientConfig>,
    servers: Vec<CertificateDer<'static>>,
}

/// An established session.
#[derive(Debug)]
pub struct Session {
    stream: StreamOwned<ClientConnection, TcpStream>,
    /// The number of the server at its other end, from 1.
    pub server: usize,
}

impl TlsClient {
    /// Opens a connection and shakes hands, each step within `patience`.
    ///
    /// # Errors
    /// When nobody answers in time, or somebody else.
    pub fn open(&self, to: SocketAddr, patience: Duration) -> io::Result<Session> {
        self.netns.run(|| {
            let stream = TcpStream::connect_timeout(&to, patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.set_write_timeout(Some(patience))?;
            let name = ServerName::try_from("kubernetes").map_err(io::Error::other)?;
            let session = ClientConnection::new(self.tls.clone(), name).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(session, stream);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            let shown = stream.conn.peer_certificates().and_then(|chain| chain.first());
            let server = self.servers.iter().position(|known| Some(known) == shown);
            let server = server.ok_or_else(|| io::Error::other("a certificate of no server of the lab"))? + 1;
            Ok(Session { stream, server })
        })
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// As [`TlsClient::open`].
    pub fn get(&self, to: SocketAddr, path: &str, patience: Duration) -> io::Result<Answer> {
        let mut session = self.open(to, patience)?;
        let status = session.get(path, true)?;
        Ok(Answer { status, server: session.server })
    }
}

impl Session {
    /// One more request on this connection, which `last` ends.
    ///
    /// # Errors
    /// When the connection is broken or nothing comes in time.
    pub fn get(&mut self, path: &str, last: bool) -> io::Result<u16> {
        let connection = if last { "close" } else { "keep-alive" };
        let head = format!("GET {path} HTTP/1.1\r\nHost: kubernetes\r\nConnection: {connection}\r\n\r\n");
        self.stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            let read = self.stream.read(&mut part)?;
            answer.extend(&part[..read]);
            // The answers that are asked for here (`/livez`, `/version`) are shorter than one record: head and body come together.
            if let Some((status, _)) = http::parse(&answer) {
                return Ok(status);
            }
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
