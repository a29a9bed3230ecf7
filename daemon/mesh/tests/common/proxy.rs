//! A TCP proxy between relays that can cut, hold and count.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// One.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Connections are refused (closed at once).
    pub(crate) closed: Arc<AtomicBool>,
    /// Bytes of both ways.
    pub(crate) bytes: Arc<AtomicU64>,
    cut: watch::Sender<u64>,
    hold: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (cut, hold) = (watch::Sender::new(0), watch::Sender::new(false));
        let (closed, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let own = (cut.clone(), hold.clone(), Arc::clone(&closed), Arc::clone(&bytes));
        tokio::spawn(async move {
            let (cut, hold, closed, bytes) = own;
            while let Ok((near, _)) = listener.accept().await {
                if closed.load(Ordering::Relaxed) {
                    continue;
                }
                let (mut cut, hold, bytes) = (cut.subscribe(), hold.subscribe(), Arc::clone(&bytes));
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        _ = cut.changed() => {}
                        () = async {
                            tokio::join!(
                                carry(near_in, far_out, hold.clone(), Arc::clone(&bytes)),
                                carry(far_in, near_out, hold.clone(), bytes),
                            );
                        } => {}
                    }
                });
            }
        });
        Self { address, closed, bytes, cut, hold }
    }

    /// Breaks every connection.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|n| *n += 1);
    }

    /// Carries nothing, and breaks nothing: a black hole.
    pub(crate) fn hold(&self, hold: bool) {
        self.hold.send_replace(hold);
    }
}

async fn carry<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    mut from: R,
    mut to: W,
    mut hold: watch::Receiver<bool>,
    bytes: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if hold.wait_for(|hold| !hold).await.is_err() {
            return;
        }
        bytes.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    // The other direction may go on.
    let _closed = to.shutdown().await;
}
