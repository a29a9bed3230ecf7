//! The sockets of every session: dialled, accepted, read, written and closed as the speaker asks, with bounds it does not know of.
//!
//! Decides nothing about sessions. A connection is known by the speaker's number, which is also its token in the poller; the speaker is
//! told of nothing that happens to it after `Close`.

mod closing;
mod door;
mod link;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bascule_bgp::config::{Secret, SpeakerConfig, Transport};
use bascule_bgp::io::{CLOSE_LINGER, Conn, Input};
use bascule_core::node::io::LinkInfo;
use bascule_core::time::Instant;
use bascule_core::types::LinkId;

use self::closing::Closing;
use self::door::Door;
use self::link::Link;
use super::links::Links;
use super::transport::Patience;
use crate::net::NetError;
use crate::net::rt::{Interest, Poller};
use crate::net::tcp::{Dial, Key, Read, Stream};

/// Bytes read from one connection in one turn: a neighbor that floods keeps no other from its keepalives.
pub(super) const READ_BUDGET: usize = 64 << 10;
/// An attempt without an answer ends after this at the latest. The speaker's ConnectRetryTimer ends it earlier where it is shorter.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The kernel does not tell when bytes are acknowledged: it is asked this often while somebody waits for that.
const ACKNOWLEDGED: Duration = Duration::from_millis(5);

/// Every connection of the room.
#[derive(Debug)]
pub(super) struct Connections {
    poller: Poller,
    links: Links,
    patience: Patience,
    door: Door,
    open: HashMap<Conn, Open>,
    /// What the speaker must be told without having been asked to wait for it.
    news: VecDeque<Input<'static>>,
    /// Connections that took bytes since the speaker was told so.
    written: VecDeque<Conn>,
    /// When acknowledgements are asked for again.
    ask: Option<Instant>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Open {
    Dialling { dial: Dial, until: Instant },
    Up(Link),
    Closing(Closing),
}

impl Connections {
    /// Without any connection. `listen` is opened when the first neighbor may dial us.
    pub(super) fn new(listen: SocketAddr) -> Result<Self, NetError> {
        Ok(Self {
            poller: Poller::new()?,
            links: Links::default(),
            patience: Patience::default(),
            door: Door::new(listen),
            open: HashMap::new(),
            news: VecDeque::new(),
            written: VecDeque::new(),
            ask: None,
            buffer: vec![0; READ_BUDGET],
        })
    }

    /// What the next attempts need to know of the neighbors, and where they may dial us.
    pub(super) fn configure(&mut self, config: &SpeakerConfig, listen: SocketAddr, now: Instant) {
        self.patience = Patience::of(config);
        self.door.move_to(listen, &self.poller, now);
    }

    pub(super) fn note_link(&mut self, link: LinkInfo) {
        self.links.note(link);
    }

    pub(super) fn forget_link(&mut self, link: LinkId) {
        self.links.forget(link);
    }

    /// The poller of every socket, to be waited for.
    pub(super) fn poller(&mut self) -> &mut Poller {
        &mut self.poller
    }

    /// Why neighbors cannot dial us although they should be able to.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.door.troubles()
    }

    pub(super) fn connect(
        &mut self,
        conn: Conn,
        remote: SocketAddr,
        transport: &Transport,
        external: bool,
        now: Instant,
    ) {
        let how = self.patience.options(remote.ip(), transport, external);
        let dialled = Dial::start(remote, &how).and_then(|dial| {
            self.poller.add_for(&dial, conn.0, Interest::Write)?;
            Ok(dial)
        });
        match dialled {
            Ok(dial) => {
                self.open.insert(conn, Open::Dialling { dial, until: now + CONNECT_TIMEOUT });
            }
            Err(error) => self.news.push_back(Input::ConnectFailed { conn, error: error.to_string() }),
        }
    }

    pub(super) fn listen(&mut self, remote: IpAddr, transport: &Transport, external: bool, now: Instant) {
        let how = self.patience.options(remote, transport, external);
        self.door.expect(remote, how, &self.poller, now);
    }

    pub(super) fn unlisten(&mut self, remote: IpAddr, now: Instant) {
        self.door.forget(remote, &self.poller, now);
    }

    /// Writes what the kernel takes at once; the speaker hears of it in the next turn, which bounds the work of this one.
    pub(super) fn write(&mut self, conn: Conn, bytes: Vec<u8>) {
        if let Some(Open::Up(link)) = self.open.get_mut(&conn) {
            link.queue(bytes);
            link.flush(conn, &self.poller);
            self.written.push_back(conn);
        }
    }

    pub(super) fn watch_acknowledged(&mut self, conn: Conn, now: Instant) {
        if let Some(Open::Up(link)) = self.open.get_mut(&conn) {
            link.watch();
            self.written.push_back(conn);
            self.ask = Some(now + ACKNOWLEDGED);
        }
    }

    /// What cannot take the key ends: its segments would be dropped, or signed with a key that was given up.
    pub(super) fn rekey(&mut self, conn: Conn, password: Secret) {
        let key = Key(password.0);
        let taken = match self.open.get(&conn) {
            Some(Open::Dialling { dial, .. }) => dial.set_key(&key),
            Some(Open::Up(link)) => link.stream.set_key(&key),
            // Its NOTIFICATION goes out with the old one, or not at all.
            Some(Open::Closing(_)) | None => Ok(()),
        };
        if let Err(error) = taken {
            self.open.remove(&conn);
            self.news.push_back(Input::Closed { conn, error: Some(error.to_string()) });
        }
    }

    pub(super) fn close(&mut self, conn: Conn, now: Instant) {
        match self.open.remove(&conn) {
            // What was dialled had nothing to say yet. Its descriptor leaves the poller as it closes.
            Some(Open::Dialling { .. }) | None => {}
            Some(Open::Up(link)) => {
                let mut closing = Closing::new(link, now + CLOSE_LINGER);
                if closing.go_on(conn, &self.poller, &mut self.buffer) {
                    self.open.insert(conn, Open::Closing(closing));
                }
            }
            Some(Open::Closing(closing)) => {
                self.open.insert(conn, Open::Closing(closing));
            }
        }
    }

    /// A descriptor is ready: takes what there is, within the budget. `None` when the speaker need not hear of it.
    pub(super) fn ready(&mut self, token: u64, now: Instant) -> Option<Input<'_>> {
        if Door::is(token) {
            if let Some((conn, stream)) = self.door.accept(token, now, &self.poller) {
                self.accepted(conn, stream);
            }
            return self.news.pop_front();
        }
        let conn = Conn(token);
        match self.open.remove(&conn)? {
            Open::Dialling { dial, until } => match dial.settled() {
                None => {
                    self.open.insert(conn, Open::Dialling { dial, until });
                    None
                }
                Some(settled) => Some(self.settled(conn, dial, settled)),
            },
            Open::Up(mut link) => {
                if link.flush(conn, &self.poller) {
                    self.written.push_back(conn);
                }
                let read = link.stream.read(&mut self.buffer);
                self.take(conn, link, read)
            }
            Open::Closing(mut closing) => {
                if closing.go_on(conn, &self.poller, &mut self.buffer) {
                    self.open.insert(conn, Open::Closing(closing));
                }
                None
            }
        }
    }

    fn settled(&mut self, conn: Conn, dial: Dial, settled: Result<(), NetError>) -> Input<'static> {
        let stood = settled.and_then(|()| {
            self.poller.change(&dial, conn.0, Interest::Read)?;
            dial.into_stream()
        });
        match stood {
            Ok(stream) => {
                let (local, place) = (stream.local(), self.place(&stream));
                self.open.insert(conn, Open::Up(Link::new(stream)));
                Input::Connected { conn, local, on_link: place.on_link, link_local: place.link_local }
            }
            Err(error) => Input::ConnectFailed { conn, error: error.to_string() },
        }
    }

    fn accepted(&mut self, conn: Conn, stream: Stream) {
        let (remote, local, place) = (stream.remote().ip(), stream.local(), self.place(&stream));
        match self.poller.add(&stream, conn.0) {
            Ok(()) => {
                self.open.insert(conn, Open::Up(Link::new(stream)));
                let (on_link, link_local) = (place.on_link, place.link_local);
                self.news.push_back(Input::Accepted { conn, remote, local, on_link, link_local });
            }
            Err(error) => tracing::error!(%error, %remote, "an accepted connection was dropped"),
        }
    }

    fn place(&self, stream: &Stream) -> super::links::Place {
        let scope = match stream.remote() {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        self.links.place(stream.local().ip(), stream.remote().ip(), scope)
    }

    fn take(&mut self, conn: Conn, link: Link, read: io::Result<Read>) -> Option<Input<'_>> {
        let error = match read {
            Ok(Read::Bytes(count)) => {
                self.open.insert(conn, Open::Up(link));
                return Some(Input::Received { conn, bytes: &self.buffer[..count] });
            }
            Ok(Read::Nothing) => {
                self.open.insert(conn, Open::Up(link));
                return None;
            }
            Ok(Read::End) => None,
            Err(error) => Some(error.to_string()),
        };
        Some(Input::Closed { conn, error })
    }

    /// What else the speaker must be told now; asked until `None`.
    pub(super) fn poll_news(&mut self) -> Option<Input<'static>> {
        self.news.pop_front()
    }

    /// Something waits that happened after it was asked for: an attempt that failed at once, bytes that were taken.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty() || !self.written.is_empty()
    }

    /// How many connections took bytes by now; each is told with one call of [`Self::poll_written`].
    pub(super) fn written(&self) -> usize {
        self.written.len()
    }

    /// One connection that took bytes. `None` when it is closed meanwhile.
    pub(super) fn poll_written(&mut self) -> Option<Input<'static>> {
        let conn = self.written.pop_front()?;
        let Some(Open::Up(link)) = self.open.get_mut(&conn) else { return None };
        let unacknowledged = link.note_unacknowledged();
        Some(Input::Written { conn, pending: link.pending(), unacknowledged })
    }

    /// Ends attempts, closings and pauses that are over, and asks for acknowledgements.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.door.handle_timeout(now, &self.poller);
        let news = &mut self.news;
        self.open.retain(|conn, open| match open {
            Open::Dialling { until, .. } if *until <= now => {
                let error = format!("no answer within {CONNECT_TIMEOUT:?}");
                news.push_back(Input::ConnectFailed { conn: *conn, error });
                false
            }
            Open::Closing(closing) => !closing.expire(now),
            Open::Dialling { .. } | Open::Up(_) => true,
        });
        if self.ask.is_some_and(|at| at <= now) {
            let mut waiting = false;
            for (conn, open) in &mut self.open {
                if let Open::Up(link) = open {
                    let (fell, more) = link.ask_acknowledged();
                    waiting |= more;
                    if fell && !self.written.contains(conn) {
                        self.written.push_back(*conn);
                    }
                }
            }
            self.ask = waiting.then(|| now + ACKNOWLEDGED);
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let each = self.open.values().filter_map(|open| match open {
            Open::Dialling { until, .. } => Some(*until),
            Open::Closing(closing) => Some(closing.until()),
            Open::Up(_) => None,
        });
        each.chain(self.ask).chain(self.door.poll_timeout()).min()
    }

    /// Nothing is left, not even bytes of connections that the speaker has closed.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Drops everything at once, with a RST where bytes are left.
    pub(super) fn abort(&mut self) {
        for (_, open) in self.open.drain() {
            match open {
                Open::Dialling { .. } => {}
                Open::Up(link) => link.stream.reset_on_close(),
                Open::Closing(closing) => closing.abort(),
            }
        }
    }
}
