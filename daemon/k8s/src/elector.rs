//! The driver of one elector: requests, watch, timers and commands meet here.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bascule_core::election::lease::kube::{Answer, KubeConfig, KubeLease, Request, Version, WallMicros, Watched};
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{Command, Condition, Failure, LeaseElector, Output, RequestId, Word};
use bascule_core::time::Instant;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::LeaseName;
use crate::access::{Access, Clients};
use crate::exchange;
use crate::request::{self, Done};
use crate::watch::{self, Seen};

/// Objects kept for the next write: the machine writes over the last one that it was shown.
const KEPT: usize = 4;
/// Events of the watch that wait; then the server waits.
const WATCHED: usize = 16;
/// Tokio's clock stands while the machine is suspended and the elector's does not: it looks at least this often.
const LOOK: Duration = Duration::from_secs(1);

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

/// What was sent ends with its answer and the clients to go on with; `None` when its time is up.
type Running = Pin<Box<dyn Future<Output = Option<(Option<Clients>, Done)>> + Send>>;

/// One elector.
pub struct Elector {
    config: ElectorConfig,
    machine: KubeLease,
    clients: Option<Clients>,
    kept: VecDeque<Lease>,
    request: Option<(RequestId, Running)>,
    watch: JoinSet<()>,
    seen: (mpsc::Sender<Seen>, mpsc::Receiver<Seen>),
    holder: Option<String>,
    detail: Option<String>,
}

impl Elector {
    /// An elector that does not take part yet.
    pub fn new(config: ElectorConfig) -> Self {
        Self {
            machine: KubeLease::new(config.machine.clone()),
            config,
            clients: None,
            kept: VecDeque::new(),
            request: None,
            watch: JoinSet::new(),
            seen: mpsc::channel(WATCHED),
            holder: None,
            detail: None,
        }
    }

    /// Takes part until it is told to stop; then the lease is released, if it is ours. Ends also when nobody can tell it anything any more:
    /// nobody will say then that all is closed, so the lease is left to run out. `say` must not block.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut say: impl FnMut(Word)) {
        let now = self.now();
        self.machine.handle_wall_clock(wall(), now);
        self.machine.handle_start(now);
        loop {
            self.carry_out(&mut say);
            if self.machine.is_stopped() {
                return;
            }
            let wait = self.machine.poll_timeout().map_or(LOOK, |at| at.since(self.now()).min(LOOK));
            // An answer that has arrived comes before a timer that calls it overdue.
            tokio::select! {
                biased;
                (id, ended) = ended(&mut self.request) => self.answered(id, ended),
                Some(seen) = self.seen.1.recv() => self.watched(seen),
                command = commands.recv() => match command {
                    Some(command) => self.told(command),
                    None => {
                        self.told(Command::Stop);
                        self.carry_out(&mut say);
                        return;
                    }
                },
                () = sleep(wait) => self.look(),
            }
        }
    }

    fn now(&self) -> Instant {
        (self.config.clock)()
    }

    /// Everything that the machine owes.
    fn carry_out(&mut self, say: &mut impl FnMut(Word)) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { request: Request::Watch(version), .. } => self.start_watch(version),
                Output::Send { id, request, deadline } => self.start(id, request, deadline),
                Output::Claim { term, epoch, deadline } => say(Word::Claim { term, epoch, deadline }),
                Output::Extend { term, deadline } => say(Word::Extend { term, deadline }),
                Output::Close { term, reason } => say(Word::Close { term, reason }),
                Output::Condition(condition) => {
                    let detail = self.detail.clone().filter(|_| condition != Condition::Reachable);
                    say(Word::Condition { condition, detail });
                }
                Output::Stalled(late) => say(Word::Stalled(late)),
            }
        }
        let holder = self.machine.holder();
        if holder != self.holder.as_deref() {
            self.holder = holder.map(str::to_owned);
            say(Word::Holder(self.holder.clone()));
        }
    }

    fn start(&mut self, id: RequestId, request: Request, deadline: Instant) {
        let patience = deadline.since(self.now());
        let base = match &request {
            Request::Update { version: Version(version), .. } => {
                self.kept.iter().find(|lease| lease.metadata.resource_version.as_ref() == Some(version)).cloned()
            }
            Request::Get | Request::Create(_) | Request::Watch(_) => None,
        };
        let (clients, access) = (self.clients.clone(), self.config.access.clone());
        let name = self.config.lease.clone();
        let work = async move {
            let clients = match clients {
                Some(clients) => clients,
                None => match access.clients().await {
                    Ok(clients) => clients,
                    Err(error) => return (None, Done::failed(Failure::Unavailable, exchange::chain(&error))),
                },
            };
            let done = request::perform(&clients.requests, &name, base.as_ref(), &request).await;
            (Some(clients), done)
        };
        self.request = Some((id, Box::pin(async move { timeout(patience, work).await.ok() })));
    }

    fn start_watch(&mut self, version: Version) {
        // Ends the former one. What it had still to say is of the past.
        self.watch = JoinSet::new();
        self.seen = mpsc::channel(WATCHED);
        let Some(clients) = &self.clients else {
            // Nothing was answered yet, so nothing was asked for either; the machine looks by itself.
            return self.machine.handle_watch(Watched::Ended, self.now());
        };
        let (client, name, idle) = (clients.watches.clone(), self.config.lease.clone(), self.config.timing.duration());
        self.watch.spawn(watch::follow(client, name, version, idle, self.seen.0.clone()));
    }

    fn answered(&mut self, id: RequestId, ended: Option<(Option<Clients>, Done)>) {
        self.request = None;
        let now = self.now();
        // The deadline was the machine's: its own timer is due as well.
        let Some((clients, done)) = ended else {
            self.detail = Some("no answer in time".to_owned());
            return self.machine.handle_timeout(now);
        };
        // A token, a certificate or a CA may have been replaced: the next request reads the files again.
        let stale = matches!(done.answer, Answer::Failed(Failure::Denied | Failure::Lost));
        self.clients = clients.filter(|_| !stale);
        self.detail = done.detail;
        self.keep(done.lease);
        self.machine.handle_wall_clock(wall(), now);
        self.machine.handle_answer(id, done.answer, now);
    }

    fn watched(&mut self, (watched, lease): Seen) {
        self.keep(lease);
        self.machine.handle_watch(watched, self.now());
    }

    fn keep(&mut self, lease: Option<Lease>) {
        if let Some(lease) = lease {
            if self.kept.len() == KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back(lease);
        }
    }

    fn told(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Standing(standing) => self.machine.handle_standing(standing, now),
            Command::Closed(term) => self.machine.handle_closed(term, now),
            Command::Stop => self.machine.handle_stop(now),
        }
    }

    fn look(&mut self) {
        let now = self.now();
        if self.machine.poll_timeout().is_some_and(|at| at <= now) {
            self.machine.handle_timeout(now);
        }
    }
}

/// Waits for the end of the request under way; for ever when there is none.
async fn ended(request: &mut Option<(RequestId, Running)>) -> (RequestId, Option<(Option<Clients>, Done)>) {
    match request {
        Some((id, running)) => (*id, running.await),
        None => pending().await,
    }
}

/// For the record only; nothing is decided by it.
fn wall() -> WallMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
