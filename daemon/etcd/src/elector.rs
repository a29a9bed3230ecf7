//! The driver of one elector: which member is asked, over which connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bascule_core::election::lease::etcd::{Answer, EtcdConfig, EtcdLease, Request, Watched};
use bascule_core::election::lease::{Command, Failure, Word};
use bascule_core::time::Instant;
use bascule_elector::{Driver, Store, Work};
use tokio::sync::{mpsc, watch};

use crate::Access;
use crate::connection::Connection;
use crate::request::{self, Keys, Said};
use crate::tls;
use crate::watch::Watching;

/// What an elector must know.
#[derive(Debug, Clone)]
pub struct ElectorConfig {
    /// How the cluster is reached. The files need not be there yet.
    pub access: Access,
    /// The key, which every candidate names alike.
    pub key: String,
    /// Of the machine.
    pub machine: EtcdConfig,
    /// CLOCK_BOOTTIME, the clock of the fence.
    pub clock: fn() -> Instant,
}

/// One elector.
pub struct Elector(Driver<EtcdLease, Members>);

impl Elector {
    /// An elector that does not take part yet.
    pub fn new(config: ElectorConfig) -> Self {
        Self::of(config, None)
    }

    /// One of a joint entry, whose share goes by the name `share`: another one for each node of all groups. It is written at `KEY/SHARE`.
    pub fn joint(config: ElectorConfig, share: &str) -> Self {
        let share = format!("{}/{share}", config.key);
        Self::of(config, Some(share))
    }

    fn of(config: ElectorConfig, share: Option<String>) -> Self {
        let ElectorConfig { access, key, machine, clock } = config;
        let members = Members {
            access,
            keys: Keys { entry: key, share },
            patience: machine.timing.request(),
            at: Arc::default(),
            connection: None,
            sick: watch::Sender::new(None),
        };
        Self(Driver::new(EtcdLease::new(machine), members, clock))
    }

    /// Takes part until it is told to stop; see [`Driver::run`].
    pub async fn run(self, commands: mpsc::Receiver<Command>, say: impl FnMut(Word)) {
        self.0.run(commands, say).await;
    }
}

/// The members of the cluster.
struct Members {
    access: Access,
    keys: Keys,
    patience: Duration,
    /// The member that is asked, or the one to try first.
    at: Arc<AtomicUsize>,
    /// Between two requests. A request takes it along, and it ends with a request that is given up.
    connection: Option<Connection>,
    /// The member that last kept a request waiting, or broke off.
    sick: watch::Sender<Option<usize>>,
}

impl Members {
    /// The next request begins with another member.
    fn turn_away(&mut self) -> usize {
        self.connection = None;
        let at = self.at.load(Ordering::Relaxed);
        self.at.store((at + 1) % self.access.endpoints().len(), Ordering::Relaxed);
        self.sick.send_replace(Some(at));
        at
    }
}

impl Store<EtcdLease> for Members {
    /// With the connection to go on with.
    type Done = (Option<Connection>, Said);
    type Seen = Watched;

    fn holder(machine: &EtcdLease) -> Option<&str> {
        machine.holder()
    }

    fn is_certain(machine: &EtcdLease) -> bool {
        machine.is_certain()
    }

    fn is_watch(request: &Request) -> bool {
        matches!(request, Request::Watch(_))
    }

    fn call(&mut self, request: Request, patience: Duration) -> Work<Self::Done> {
        let connection = self.connection.take();
        let (access, keys, at) = (self.access.clone(), self.keys.clone(), self.at.clone());
        Box::pin(async move {
            let connection = match connection {
                Some(connection) if connection.is_fresh(&access).await => connection,
                _ => match Connection::open(&access, at.load(Ordering::Relaxed), patience).await {
                    Ok(connection) => connection,
                    Err(why) => {
                        let failure = if tls::is_denial(&why) { Failure::Denied } else { Failure::Unavailable };
                        return (None, (Answer::Failed(failure), Some(why)));
                    }
                },
            };
            at.store(connection.at, Ordering::Relaxed);
            let said = request::perform(&connection, &keys, request).await;
            (Some(connection), said)
        })
    }

    fn watch(&mut self, request: Request, seen: mpsc::Sender<Watched>) -> Work<()> {
        let Request::Watch(after) = request else { return Box::pin(async {}) };
        let watching = Watching {
            access: self.access.clone(),
            first: self.at.load(Ordering::Relaxed),
            key: self.keys.entry.clone(),
            after,
            patience: self.patience,
            sick: self.sick.subscribe(),
        };
        Box::pin(watching.follow(seen))
    }

    fn done(&mut self, (connection, said): Self::Done) -> Said {
        match &said.0 {
            Answer::Failed(Failure::Unavailable | Failure::Denied | Failure::Lost) => {
                self.turn_away();
            }
            Answer::Failed(Failure::Throttled { .. }) => self.connection = connection,
            Answer::Key(..) | Answer::Lease(..) | Answer::Won(_) | Answer::Revoked | Answer::NoLease => {
                self.connection = connection;
            }
        }
        said
    }

    fn late(&mut self) -> String {
        let at = self.turn_away();
        format!("{}: no answer in time", self.access.endpoints()[at])
    }

    fn seen(&mut self, seen: Watched) -> Watched {
        seen
    }
}
