//! The loop that drives a lease elector: requests, watch, timers and commands meet here. It decides nothing, and knows no store: how a
//! request is sent and what is kept between two of them is the business of a [`Store`] (`bascule-k8s`, `bascule-etcd`).

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use bascule_core::election::lease::{Command, Condition, LeaseElector, Output, RequestId, Word};
use bascule_core::time::Instant;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Events of the watch that wait; then the store waits.
const WATCHED: usize = 16;
/// Tokio's clock stands while the machine is suspended and the elector's does not: it looks at least this often.
const LOOK: Duration = Duration::from_secs(1);

/// Work for the store, in the background.
pub type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A store as the machine `M` asks it.
pub trait Store<M: LeaseElector> {
    /// What became of a request, with whatever is needed for the next one.
    type Done: Send + 'static;
    /// What the watch saw.
    type Seen: Send + 'static;

    /// Who holds the lease, as far as `machine` knows.
    fn holder(machine: &M) -> Option<&str>;

    /// What [`Self::holder`] says now may be told.
    fn is_certain(_machine: &M) -> bool {
        true
    }

    /// Before the machine starts, and before it is handed an answer.
    fn refresh(&self, _machine: &mut M, _now: Instant) {}

    /// Does it ask for a watch?
    fn is_watch(request: &M::Request) -> bool;

    /// Sends the request, once. The work is dropped after `patience`, and its connection must be closed by that.
    fn call(&mut self, request: M::Request, patience: Duration) -> Work<Self::Done>;

    /// Watches and reports until it ends; the last report says that it has.
    fn watch(&mut self, request: M::Request, seen: mpsc::Sender<Self::Seen>) -> Work<()>;

    /// The end of a call: the answer, and for people what was wrong with it.
    fn done(&mut self, done: Self::Done) -> (M::Answer, Option<String>);

    /// A call was dropped, for nobody waits any more. What to tell people.
    fn late(&mut self) -> String;

    /// A word of the watch.
    fn seen(&mut self, seen: Self::Seen) -> M::Watched;
}

/// A machine, its store and what is under way between them.
pub struct Driver<M: LeaseElector, S: Store<M>> {
    machine: M,
    store: S,
    clock: fn() -> Instant,
    call: Option<(RequestId, Work<Option<S::Done>>)>,
    watch: JoinSet<()>,
    seen: (mpsc::Sender<S::Seen>, mpsc::Receiver<S::Seen>),
    holder: Option<String>,
    detail: Option<String>,
}

impl<M: LeaseElector, S: Store<M>> Driver<M, S> {
    /// Of a machine that does not take part yet. `clock` is that of the fence, CLOCK_BOOTTIME.
    pub fn new(machine: M, store: S, clock: fn() -> Instant) -> Self {
        Self {
            machine,
            store,
            clock,
            call: None,
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
        self.store.refresh(&mut self.machine, now);
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
                (id, ended) = ended(&mut self.call) => self.answered(id, ended),
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
        (self.clock)()
    }

    /// Everything that the machine owes.
    fn carry_out(&mut self, say: &mut impl FnMut(Word)) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send { request, .. } if S::is_watch(&request) => self.start_watch(request),
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
        let holder = S::holder(&self.machine);
        if S::is_certain(&self.machine) && holder != self.holder.as_deref() {
            self.holder = holder.map(str::to_owned);
            say(Word::Holder(self.holder.clone()));
        }
    }

    fn start(&mut self, id: RequestId, request: M::Request, deadline: Instant) {
        // The machine's timer may be the first to say so.
        if self.call.take().is_some() {
            self.detail = Some(self.store.late());
        }
        let patience = deadline.since(self.now());
        let work = self.store.call(request, patience);
        self.call = Some((id, Box::pin(async move { timeout(patience, work).await.ok() })));
    }

    fn start_watch(&mut self, request: M::Request) {
        // Ends the former one. What it had still to say is of the past.
        self.watch = JoinSet::new();
        self.seen = mpsc::channel(WATCHED);
        let work = self.store.watch(request, self.seen.0.clone());
        self.watch.spawn(work);
    }

    fn answered(&mut self, id: RequestId, ended: Option<S::Done>) {
        self.call = None;
        let now = self.now();
        // The deadline was the machine's: its own timer is due as well.
        let Some(done) = ended else {
            self.detail = Some(self.store.late());
            return self.machine.handle_timeout(now);
        };
        let (answer, detail) = self.store.done(done);
        self.detail = detail;
        self.store.refresh(&mut self.machine, now);
        self.machine.handle_answer(id, answer, now);
    }

    fn watched(&mut self, seen: S::Seen) {
        let watched = self.store.seen(seen);
        self.machine.handle_watch(watched, self.now());
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

/// Waits for the end of the call under way; for ever when there is none. `None` when its time is up.
async fn ended<T>(call: &mut Option<(RequestId, Work<Option<T>>)>) -> (RequestId, Option<T>) {
    match call {
        Some((id, work)) => (*id, work.await),
        None => pending().await,
    }
}

/// An error with its causes, which many libraries leave out of their own words.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
