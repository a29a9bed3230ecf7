//! A peer with a good certificate and bad manners.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bascule_core::site::SiteId;
use bascule_core::site::state::message::{Cursor, Message};
use bascule_core::site::state::version::Speaks;
use bascule_mesh::clock::Clock;
use bascule_mesh::state::frame::{Frame, HEADER};
use bascule_mesh::tls::Credentials;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{PATIENCE, met};

/// A greeted connection to a relay.
pub(crate) struct Rogue {
    pub(crate) stream: TlsStream<TcpStream>,
}

impl Rogue {
    /// Connects to the relay of `site` and greets.
    pub(crate) async fn connect(dir: &Path, clock: &Arc<dyn Clock>, to: SocketAddr, site: SiteId) -> Self {
        let credentials = Credentials::read(dir, clock).expect("good certificates");
        // A relay that is crowded closes at once: it is called until it has room.
        let call = async || {
            let stream = TcpStream::connect(to).await.expect("a relay listens");
            stream.set_nodelay(true).expect("a TCP socket");
            let connector = TlsConnector::from(credentials.client());
            connector.connect(credentials.server_name(site), stream).await.ok()
        };
        let mut rogue = Self { stream: met(call).await.expect("a handshake") };
        rogue.send(&Frame::Greeting { process: 0x7067_7565, renews: false, rank: None }).await;
        rogue
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        // It may be closed by now: that is what is being tested.
        let _closed = self.stream.write_all(bytes).await;
        let _closed = self.stream.flush().await;
    }

    pub(crate) async fn send(&mut self, frame: &Frame) {
        self.raw(&frame.encode()).await;
    }

    pub(crate) async fn say(&mut self, message: &Message) {
        self.send(&Frame::Message(message.encode())).await;
    }

    /// Says Hello as a process of this incarnation that has written nothing and read nothing.
    pub(crate) async fn hello(&mut self, incarnation: u64) {
        self.hello_as(incarnation, Speaks::OURS).await;
    }

    /// The same of one that speaks this.
    pub(crate) async fn hello_as(&mut self, incarnation: u64, speaks: Speaks) {
        let own = Cursor { incarnation, instance: incarnation, seq: 1 };
        self.say(&Message::Hello { own, read: Cursor::default(), speaks }).await;
    }

    /// The next frame: kind and payload; `None` at the end.
    pub(crate) async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; HEADER];
        self.stream.read_exact(&mut header).await.ok()?;
        let len = usize::try_from(u32::from_be_bytes([0, header[1], header[2], header[3]])).ok()?;
        let mut payload = vec![0; len];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((header[0], payload))
    }

    /// Reads to the end. Fails when it does not come.
    pub(crate) async fn closed(&mut self) {
        let end = async { while self.read().await.is_some() {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the connection is closed");
    }

    /// Reads until the relay has said Hello.
    pub(crate) async fn greeted(&mut self) {
        let hello = async {
            while let Some((kind, payload)) = self.read().await {
                if kind == 0 && matches!(Message::parse(&payload), Ok(Message::Hello { .. })) {
                    return;
                }
            }
            panic!("closed before Hello");
        };
        tokio::time::timeout(PATIENCE, hello).await.expect("a Hello");
    }
}
