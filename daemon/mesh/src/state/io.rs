//! What goes into the driver and what comes out of it.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::SiteId;
use bascule_core::site::state::io::{CloseReason, PeerConfig, Refused};
use bascule_core::site::state::message::Cursor;
use bascule_core::site::state::record::{Body, Key};
use bascule_core::site::state::version::Speaks;
use bascule_core::site::summary::ServiceId;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::frame::Goodbye;
use crate::clock::Clock;
use crate::tls::Refusal;

/// A connection that is being made.
pub type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// How connections are made: in the daemon `TcpStream::connect`, elsewhere from a namespace or through a proxy.
#[derive(Clone)]
pub struct Dial(pub Arc<dyn Fn(SocketAddr) -> Dialling + Send + Sync>);

impl Default for Dial {
    fn default() -> Self {
        Self(Arc::new(|address| Box::pin(TcpStream::connect(address))))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}

/// Another site.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// Prefixes and rights.
    pub rights: PeerConfig,
    /// Its relays, the one to try first first. Addresses are where to call, never who answers.
    pub relays: Vec<SocketAddr>,
}

/// All that a relay must know.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Directory of certificate, key, trust and revocation lists ([`crate::pki`]). The certificate says which site this is.
    pub credentials: PathBuf,
    /// File that keeps the incarnation. Its directory is there.
    pub incarnation: PathBuf,
    /// Sites. This one is passed over, so that all may have the same list.
    pub peers: BTreeMap<SiteId, Peer>,
    /// Does this relay lead its site from the start? At most one does at a time: the site's own election says which.
    pub leads: bool,
    /// How often the files of `credentials` are compared with what is in force.
    pub reload: Duration,
    /// What this node runs, for the people at other sites: printable ASCII, at most 64 bytes.
    pub build: String,
    /// Clocks.
    pub clock: Arc<dyn Clock>,
    /// How connections are made.
    pub dial: Dial,
}

/// What a relay is told.
#[derive(Debug)]
pub enum Command {
    /// This site writes a record; `None`: there is none any more.
    Local(Key, Option<Body>),
    /// We need room at a site, or lend it some.
    Credit {
        /// Which site.
        to: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
        /// Lend, not ask.
        lend: bool,
    },
    /// What this site reaches, all of it, for other sites to know.
    Reach(BTreeMap<SiteId, bool>),
    /// Other peers, rights or addresses.
    Peers(BTreeMap<SiteId, Peer>),
    /// Lead the site, or leave that to another relay. Sessions stay, but for those with an earlier version, which are the leading relay's.
    Lead(bool),
    /// Begin as another process, which tells everything again.
    Anew,
    /// How is it?
    Status(oneshot::Sender<Status>),
    /// How old is what is held of each site? The oldest record of a site counts; one of which nothing is held is left out.
    Ages(oneshot::Sender<BTreeMap<SiteId, Duration>>),
    /// End, in order.
    Stop,
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why", content = "what")]
pub enum Ended {
    /// The machine closed it.
    Machine(CloseReason),
    /// Bytes that are no frame, or a frame out of order.
    Malformed,
    /// More pings than a relay has reason for.
    Pings,
    /// It took our bytes too slowly.
    Slow,
    /// Nothing was heard, not even an answer to a ping.
    Silent,
    /// The connection broke, or its peer ended it without a word.
    Broken,
    /// Its peer ended it in order.
    Goodbye(Goodbye),
    /// Its peer's certificate is not believed any more.
    Refused(Refusal),
    /// Its peer called again: it has lost the session.
    Replaced,
    /// We stop or stand by.
    Ours,
}

/// Why a call led to nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why", content = "what")]
pub enum Failed {
    /// No connection: refused, unreachable, too late, broken off.
    Unreachable,
    /// Certificates did not fit.
    Refused(Refusal),
    /// The relay said no.
    Goodbye(Goodbye),
}

/// What happened, for logs, counters and the policy.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Event {
    /// A session with a relay of a site stands.
    Up {
        /// The site.
        site: SiteId,
        /// Its relay, by its certificate.
        relay: String,
        /// We called.
        dialled: bool,
    },
    /// It ended.
    Down {
        /// The site.
        site: SiteId,
        /// Why.
        ended: Ended,
    },
    /// It goes on with other certificates.
    Renewed {
        /// The site.
        site: SiteId,
        /// Its relay.
        relay: String,
    },
    /// Nobody of the site could be reached, or would speak.
    CallFailed {
        /// The site.
        site: SiteId,
        /// The last reason.
        failed: Failed,
    },
    /// Somebody who called was sent away. `site`: by its certificate, where that is believed.
    SentAway {
        /// From where.
        from: SocketAddr,
        /// Which site it is of.
        site: Option<SiteId>,
        /// Why.
        refusal: Refusal,
    },
    /// The first Hello was said, or the session is over: what is known of the site is current from now on, or ages from now on.
    Heard {
        /// The site.
        site: SiteId,
        /// It is heard.
        up: bool,
    },
    /// A record of another site, for the policy; `None`: there is none any more.
    Record {
        /// Whose.
        origin: SiteId,
        /// About what.
        key: Key,
        /// What it says.
        body: Option<Body>,
        /// How old it is.
        age: Duration,
    },
    /// A site asks for room.
    Ask {
        /// Who.
        from: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// A site lends room.
    Lend {
        /// Who.
        from: SiteId,
        /// For which service.
        service: ServiceId,
        /// How much.
        amount: u32,
    },
    /// A site says what it reaches, all of it: it says so again with each of its beats.
    Reach {
        /// Who.
        from: SiteId,
        /// By site.
        reach: BTreeMap<SiteId, bool>,
    },
    /// A site claims a VIP that is not in its prefixes. Nothing comes of it.
    ForeignVip {
        /// Who.
        site: SiteId,
        /// What.
        vip: IpAddr,
    },
    /// A site has more records of a class than it may have.
    TooMany {
        /// Who.
        site: SiteId,
    },
    /// A site speaks no version that we speak: there is no session with it.
    Versions {
        /// Who.
        site: SiteId,
        /// What it speaks.
        theirs: Speaks,
        /// What we speak.
        ours: Speaks,
    },
    /// Another process writes as this relay. Nothing is exported any more.
    DuplicateSite {
        /// Its random number.
        instance: u64,
    },
    /// This site writes in a new incarnation, which is on the disk.
    Incarnation(u64),
    /// This relay leads, or stands by.
    Leads(bool),
    /// Other certificates are in force.
    Reloaded {
        /// Ours is not valid after, in seconds since 1970.
        expires: u64,
    },
    /// The files changed to something that is not taken. What was in force stays so.
    NotReloaded {
        /// Why.
        error: String,
    },
}

/// Counters, since start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Connections that came to us.
    pub accepted: u64,
    /// Of them turned away before a word, because too many were being greeted.
    pub crowded: u64,
    /// Of them not finished in time, or broken off, before both had greeted.
    pub unfinished: u64,
    /// Sent away by reason, by either end's certificate.
    pub sent_away: BTreeMap<Refusal, u64>,
    /// Sessions that ended, by reason.
    #[serde(serialize_with = "by_words")]
    pub ended: BTreeMap<Ended, u64>,
    /// Sessions that went on with other certificates.
    pub renewed: u64,
    /// Files that were not taken.
    pub not_reloaded: u64,
    /// Frames of kinds that only later versions have, left out.
    pub unknown: u64,
}

fn by_words<S: serde::Serializer>(map: &BTreeMap<Ended, u64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(map.iter().map(|(ended, count)| (format!("{ended:?}"), count)))
}

/// One session, or the lack of one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// The relay at the other end; `None` without a session.
    pub relay: Option<String>,
    /// We called.
    pub dialled: bool,
    /// The other end leads its site.
    pub leads: bool,
    /// Certificate of the other end is not valid after, in seconds since 1970.
    pub expires: u64,
    /// Bytes of frames sent on all sessions with the site.
    pub sent: u64,
    /// Bytes of frames received.
    pub received: u64,
    /// Frames that wait to be sent, and their bytes.
    pub waiting: (usize, usize),
    /// Sessions with the site so far.
    pub sessions: u64,
    /// Version of the messages; `None` before Hello.
    pub version: Option<u8>,
    /// What the other end runs, where it says so.
    pub build: Option<String>,
    /// How far it has been read.
    #[serde(skip)]
    pub cursor: Cursor,
    /// Records held of it.
    pub held: usize,
    /// Refused of it by the machine.
    pub refused: Refused,
}

/// How a relay is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// It leads its site.
    pub leads: bool,
    /// Incarnation in which it writes.
    pub incarnation: u64,
    /// Another process writes as this site.
    pub duplicate: bool,
    /// Our certificate is not valid after, in seconds since 1970.
    pub expires: u64,
    /// By site.
    pub sites: BTreeMap<SiteId, SessionStatus>,
    /// Counters.
    pub counters: Counters,
}
