//! The driver of one elector: what it sends by which client, and which objects it keeps for the next write.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bascule_core::election::lease::kube::{Answer, KubeConfig, KubeLease, Request, Version, WallMicros, Watched};
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{Command, Failure, Word};
use bascule_core::time::Instant;
use bascule_elector::{Driver, Store, Work, chain};
use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::mpsc;

use crate::LeaseName;
use crate::access::{Access, Clients};
use crate::request::{self, Done};
use crate::watch::{self, Seen};

/// Objects kept for the next write: the machine writes over the last one that it was shown.
const KEPT: usize = 4;

/// What an elector must know.
#[derive(Debug, Clone)]
pub struct ElectorConfig {
    /// How the API server is reached. The files need not be there yet.
    pub access: Access,
    /// The Lease.
    pub lease: LeaseName,
    /// Of the machine.
    pub machine: KubeConfig,
    /// Its times once more, for the watch.
    pub timing: Timing,
    /// CLOCK_BOOTTIME, the clock of the fence.
    pub clock: fn() -> Instant,
}

/// One elector.
pub struct Elector(Driver<KubeLease, Leases>);

impl Elector {
    /// An elector that does not take part yet.
    pub fn new(config: ElectorConfig) -> Self {
        let ElectorConfig { access, lease, machine, timing, clock } = config;
        let leases = Leases { access, name: lease, idle: timing.duration(), clients: None, kept: VecDeque::new() };
        Self(Driver::new(KubeLease::new(machine), leases, clock))
    }

    /// Takes part until it is told to stop; see [`Driver::run`].
    pub async fn run(self, commands: mpsc::Receiver<Command>, say: impl FnMut(Word)) {
        self.0.run(commands, say).await;
    }
}

/// The Lease on its API server.
struct Leases {
    access: Access,
    name: LeaseName,
    /// A holder renews more often than once in this time.
    idle: Duration,
    clients: Option<Clients>,
    kept: VecDeque<Lease>,
}

impl Leases {
    fn keep(&mut self, lease: Option<Lease>) {
        if let Some(lease) = lease {
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(lease);
        }
    }
}

impl Store<KubeLease> for Leases {
    /// With the clients to go on with.
    type Done = (Option<Clients>, Done);
    type Seen = Seen;

    fn holder(machine: &KubeLease) -> Option<&str> {
        machine.holder()
    }

    fn refresh(&self, machine: &mut KubeLease, now: Instant) {
        machine.handle_wall_clock(wall(), now);
    }

    fn is_watch(request: &Request) -> bool {
        matches!(request, Request::Watch(_))
    }

    fn call(&mut self, request: Request, _patience: Duration) -> Work<Self::Done> {
        let base = match &request {
            Request::Update { version: Version(version), .. } => {
                self.kept.iter().find(|lease| lease.metadata.resource_version.as_ref() == Some(version)).cloned()
            }
            Request::Get | Request::Create(_) | Request::Watch(_) => None,
        };
        let (clients, access, name) = (self.clients.clone(), self.access.clone(), self.name.clone());
        Box::pin(async move {
            let clients = match clients {
                Some(clients) => clients,
                None => match access.clients().await {
                    Ok(clients) => clients,
                    Err(error) => return (None, Done::failed(Failure::Unavailable, chain(&error))),
                },
            };
            let done = request::perform(&clients.requests, &name, base.as_ref(), &request).await;
            (Some(clients), done)
        })
    }

    fn watch(&mut self, request: Request, seen: mpsc::Sender<Seen>) -> Work<()> {
        let clients = self.clients.clone();
        let (name, idle) = (self.name.clone(), self.idle);
        Box::pin(async move {
            match (clients, request) {
                (Some(clients), Request::Watch(version)) => {
                    watch::follow(clients.watches, name, version, idle, seen).await;
                }
                // Nothing was answered yet, so nothing was asked for either; the machine looks by itself.
                _ => seen.send((Watched::Ended, None)).await.unwrap_or_default(),
            }
        })
    }

    fn done(&mut self, (clients, done): Self::Done) -> (Answer, Option<String>) {
        // A token, a certificate or a CA may have been replaced: the next request reads the files again.
        let stale = matches!(done.answer, Answer::Failed(Failure::Denied | Failure::Lost));
        self.clients = clients.filter(|_| !stale);
        self.keep(done.lease);
        (done.answer, done.detail)
    }

    fn late(&mut self) -> String {
        "no answer in time".to_owned()
    }

    fn seen(&mut self, (watched, lease): Seen) -> Watched {
        self.keep(lease);
        watched
    }
}

/// For the record only; nothing is decided by it.
fn wall() -> WallMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
