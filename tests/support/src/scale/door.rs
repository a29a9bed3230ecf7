//! Endpoints that say which of them was asked, and the client that asks.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{LabError, Netns, Result, capture};

/// How often a server looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// A server on every address of a namespace: each connection is told which address it came to, and closed. Dropped, it stops.
pub struct Door {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// It stays as long as the server does.
    _netns: Netns,
}

impl Door {
    /// Listens on `port`.
    ///
    /// # Errors
    /// When somebody else does.
    pub fn open(netns: &Netns, port: u16) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.map_err(LabError::io(format!("port {port}")))?;
        listener.set_nonblocking(true).map_err(LabError::io("a listener"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = netns.spawn("door", move || {
            while !ended.load(Ordering::Relaxed) {
                let _or_not = capture::readable(listener.as_fd(), LOOK);
                while let Ok((stream, _)) = listener.accept() {
                    // Who asked may be gone.
                    let _gone = say(stream);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread), _netns: netns.clone() })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn say(mut stream: TcpStream) -> io::Result<()> {
    match stream.local_addr()?.ip() {
        // Four bytes fit the buffer of a new connection: this does not block.
        IpAddr::V4(address) => stream.write_all(&address.octets()),
        IpAddr::V6(_) => Ok(()),
    }
}

/// A new connection to a VIP, and the endpoint that took it; to be called inside the client's namespace.
///
/// # Errors
/// When none takes it within `patience`.
pub fn knock(to: SocketAddr, patience: Duration) -> io::Result<Ipv4Addr> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut address = [0; 4];
    match stream.read_exact(&mut address) {
        Ok(()) => Ok(address.into()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
    }
}
