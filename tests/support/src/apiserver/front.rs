//! What stands before a real API server and does what sick ones do: plain HTTP/1.1 in front, TLS behind, one request a connection.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::json;

use super::client::Client;
use super::{ApiServer, PORT};
use crate::{LabError, Netns, Result, Stamp, sleep_until};

/// From one look at the mood to the next.
const LOOK: Duration = Duration::from_millis(20);
/// A client that has begun a request goes on with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A head ends before this; a client of Kubernetes sends a few hundred bytes and a token.
const HEAD_MAX: usize = 64 << 10;

/// What is done with requests, those under way included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// They pass.
    #[default]
    Well,
    /// Connections break, and so do new ones after their request.
    Cut,
    /// Watches end and begin with 410: the history is gone. The rest passes.
    Gone,
    /// Every answer has this status.
    Fails(u16),
    /// Every write is answered with 409, as one that came too late; reading passes.
    Conflicts,
    /// Nothing is answered, and nothing more comes of what was. What is held goes on when the mood changes, however late that is.
    Frozen,
    /// Only reading passes; the rest is held as by `Frozen`.
    WritesFrozen,
}

#[derive(Debug, Default)]
struct Moods {
    all: Mood,
    of: HashMap<IpAddr, Mood>,
}

#[derive(Debug, Default)]
struct Shared {
    moods: Mutex<Moods>,
    /// First lines of the writes that are held now, each with a number of its own.
    held: Mutex<BTreeMap<usize, String>>,
    numbers: AtomicUsize,
    /// Writes that were answered with 409.
    conflicts: AtomicUsize,
    stop: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Moods> {
        self.moods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<usize, String>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mood(&self, of: IpAddr) -> Mood {
        let moods = self.lock();
        moods.of.get(&of).copied().unwrap_or(moods.all)
    }
}

/// It stands until it is dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    directory: PathBuf,
}

impl ApiServer {
    /// A front at this address of `netns`, where the server is.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub fn front(&self, netns: &Netns, address: IpAddr) -> Result<Front> {
        let listener = netns.run(|| TcpListener::bind((address, 0))).map_err(LabError::io("a front"))?;
        listener.set_nonblocking(true).map_err(LabError::io("a front"))?;
        let address = listener.local_addr().map_err(LabError::io("a front"))?;
        let shared = Arc::new(Shared::default());
        let (client, known) = (self.client.clone(), Arc::clone(&shared));
        let thread = netns.spawn("front", move || accept(&listener, &client, &known));
        Ok(Front { address, shared, listener: Some(thread), directory: self.directory.clone() })
    }
}

impl Front {
    /// For everybody who has no mood of his own.
    pub fn set(&self, mood: Mood) {
        self.shared.lock().all = mood;
    }

    /// For one client; `None`: he is like the others again.
    pub fn set_for(&self, client: IpAddr, mood: Option<Mood>) {
        let mut moods = self.shared.lock();
        match mood {
            Some(mood) => drop(moods.of.insert(client, mood)),
            None => drop(moods.of.remove(&client)),
        }
    }

    /// How many writes are held now whose path has this part.
    pub fn held(&self, part: &str) -> usize {
        self.shared.held().values().filter(|line| line.contains(part)).count()
    }

    /// How many writes were answered with 409 by [`Mood::Conflicts`].
    pub fn conflicts(&self) -> usize {
        self.shared.conflicts.load(Ordering::Relaxed)
    }

    /// A kubeconfig of the bearer of `token` that leads here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.directory.join(format!("{name}.kubeconfig"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "lab", "user": {"token": token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        });
        std::fs::write(&path, config.to_string()).map_err(LabError::io(path.display().to_string()))?;
        Ok(path)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.listener.take() {
            let _ended = thread.join();
        }
    }
}

fn pause() {
    sleep_until(Stamp::now() + LOOK);
}

fn accept(listener: &TcpListener, client: &Client, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((stream, from)) = listener.accept() else {
            pause();
            continue;
        };
        let (client, shared) = (client.clone(), Arc::clone(shared));
        // Of this namespace, like the one that starts it; it ends with its connection, or with the front.
        let _detached = std::thread::spawn(move || {
            let _broken = serve(stream, from.ip(), &client, &shared);
        });
    }
}

/// One request: its head without the empty line, and its body.
struct Asked {
    head: String,
    body: Vec<u8>,
}

impl Asked {
    fn read(stream: &mut TcpStream) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let mut part = [0; 4096];
        let mut more = |bytes: &mut Vec<u8>| -> io::Result<()> {
            let read = stream.read(&mut part)?;
            bytes.extend(&part[..read]);
            if read == 0 || bytes.len() > HEAD_MAX + (4 << 20) { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
        };
        let end = loop {
            match bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                Some(end) => break end,
                None if bytes.len() > HEAD_MAX => return Err(ErrorKind::InvalidData.into()),
                None => more(&mut bytes)?,
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        while bytes.len() < end + 4 + length.unwrap_or(0) {
            more(&mut bytes)?;
        }
        Ok(Self { head, body: bytes.split_off(end + 4) })
    }

    fn reads(&self) -> bool {
        self.head.starts_with("GET ")
    }

    fn watches(&self) -> bool {
        self.head.lines().next().is_some_and(|line| line.contains("watch=true") || line.contains("watch=1"))
    }

    /// With an end of its connection after the answer.
    fn closing(&self) -> Vec<u8> {
        let kept = self.head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
        let head: String = kept.map(|line| format!("{line}\r\n")).collect();
        [format!("{head}Connection: close\r\n\r\n").as_bytes(), &self.body].concat()
    }

    /// Is it held in this mood?
    fn is_held(&self, mood: Mood) -> bool {
        mood == Mood::Frozen || mood == Mood::WritesFrozen && !self.reads()
    }
}

/// An answer of the front's own.
fn answer(status: u16, body: &str) -> String {
    let again = if status == 429 { "Retry-After: 1\r\n" } else { "" };
    format!(
        "HTTP/1.1 {status} Lab\r\nContent-Type: application/json\r\n{again}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn status(code: u16, reason: &str) -> serde_json::Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
        "message": format!("the lab answers {code}")})
}

fn serve(mut near: TcpStream, from: IpAddr, client: &Client, shared: &Shared) -> io::Result<()> {
    near.set_nonblocking(false)?;
    near.set_nodelay(true)?;
    near.set_read_timeout(Some(PATIENCE))?;
    near.set_write_timeout(Some(PATIENCE))?;
    let asked = Asked::read(&mut near)?;
    let mut number = None;
    let own = loop {
        let mood = shared.mood(from);
        if !asked.is_held(mood) {
            break match mood {
                Mood::Cut => Some(String::new()),
                Mood::Fails(code) => Some(answer(code, &status(code, "Lab").to_string())),
                Mood::Gone if asked.watches() => {
                    let event = json!({"type": "ERROR", "object": status(410, "Expired")});
                    Some(answer(200, &format!("{event}\n")))
                }
                Mood::Conflicts if !asked.reads() => {
                    let _before = shared.conflicts.fetch_add(1, Ordering::Relaxed);
                    Some(answer(409, &status(409, "Conflict").to_string()))
                }
                Mood::Well | Mood::Gone | Mood::Conflicts | Mood::Frozen | Mood::WritesFrozen => None,
            };
        }
        if !asked.reads() && number.is_none() {
            let next = shared.numbers.fetch_add(1, Ordering::Relaxed);
            number = Some(next);
            let line = asked.head.lines().next().unwrap_or_default().to_owned();
            let _none = shared.held().insert(next, line);
        }
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        pause();
    };
    let done = match own {
        Some(text) => near.write_all(text.as_bytes()),
        None => pass(&mut near, from, &asked, client, shared),
    };
    if let Some(number) = number {
        let _line = shared.held().remove(&number);
    }
    done
}

/// The request goes on, and its answer comes back as long as the mood lets it.
fn pass(near: &mut TcpStream, from: IpAddr, asked: &Asked, client: &Client, shared: &Shared) -> io::Result<()> {
    let server = SocketAddr::from(([127, 0, 0, 1], PORT));
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    let session = ClientConnection::new(client.tls(), ServerName::IpAddress(server.ip().into()));
    let mut far = StreamOwned::new(session.map_err(io::Error::other)?, stream);
    far.write_all(&asked.closing())?;
    far.sock.set_read_timeout(Some(LOOK))?;
    near.set_nonblocking(true)?;
    let mut part = [0; 16 << 10];
    loop {
        let mood = shared.mood(from);
        if asked.is_held(mood) {
            pause();
        } else if mood == Mood::Cut || asked.watches() && matches!(mood, Mood::Gone | Mood::Fails(_)) {
            return Ok(());
        } else {
            match far.read(&mut part) {
                Ok(0) => return Ok(()),
                Ok(read) => {
                    near.set_nonblocking(false)?;
                    let told = near.write_all(&part[..read]);
                    near.set_nonblocking(true)?;
                    // A write is carried out whoever still waits for its answer.
                    if asked.reads() {
                        told?;
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error),
            }
        }
        let gone = asked.reads() && matches!(near.peek(&mut [0]), Ok(0));
        if gone || shared.stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}
