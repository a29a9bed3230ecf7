//! One elector in the namespace of a node, and what it said when.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use bascule_core::election::lease::kube::KubeConfig;
use bascule_core::election::lease::timing::Timing;
use bascule_core::election::lease::{CloseReason, Command, Word};
use bascule_core::time::Instant;
use bascule_core::types::Term;
use bascule_k8s::{Access, Elector, ElectorConfig, LeaseName};
use bascule_lab::{Netns, wait_for};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};

/// How long anything may take that must happen, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// The Lease of every scene: kube-vip's.
pub(crate) const NAMESPACE: &str = "kube-system";
pub(crate) const LEASE: &str = "plndr-cp-lock";

/// CLOCK_BOOTTIME: one for all candidates.
pub(crate) fn now() -> Instant {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the clock exists on every Linux");
    Instant::from_nanos(u64::try_from(Duration::from(now).as_nanos()).expect("it is not that late"))
}

/// From a claim until it was over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Right {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

pub(crate) struct Candidate {
    pub(crate) name: String,
    commands: mpsc::Sender<Command>,
    words: Arc<Mutex<Vec<(Instant, Word)>>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Candidate {
    pub(crate) fn start(netns: &Netns, kubeconfig: PathBuf, timing: Timing) -> Result<Self> {
        let name = netns.name().to_owned();
        let machine = KubeConfig {
            identity: name.clone(),
            instance: format!("boot-of-{name}"),
            timing,
            seed: Some(u64::from(name.as_bytes()[name.len() - 1])),
            term: Term(0),
        };
        let lease = LeaseName { namespace: NAMESPACE.to_owned(), name: LEASE.to_owned() };
        let access = Access::Kubeconfig(kubeconfig);
        let elector = Elector::new(ElectorConfig { access, lease, machine, timing, clock: now });
        let (commands, received) = mpsc::channel(8);
        let (kill, killed) = oneshot::channel();
        let words = Arc::new(Mutex::new(Vec::new()));
        let heard = words.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        // The runtime lives on this one thread, and what it connects belongs to the thread's namespace.
        let thread = netns.spawn("elector", move || {
            let say = move |word| heard.lock().unwrap_or_else(PoisonError::into_inner).push((now(), word));
            runtime.block_on(async {
                tokio::select! {
                    () = elector.run(received, say) => {}
                    _ = killed => {}
                }
            });
        });
        Ok(Self { name, commands, words, kill: Some(kill), thread: Some(thread) })
    }

    fn words(&self) -> Vec<(Instant, Word)> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that it was ever entitled to. A claim ends at its close, and at its deadline if that was earlier: the kernel closes by
    /// itself.
    pub(crate) fn rights(&self) -> Vec<Right> {
        let mut rights: Vec<Right> = Vec::new();
        for (at, word) in self.words() {
            match (word, rights.last_mut()) {
                (Word::Claim { deadline, .. }, _) => rights.push(Right { from: at, until: deadline }),
                (Word::Extend { deadline, .. }, Some(right)) => right.until = deadline,
                (Word::Close { .. }, Some(right)) => right.until = right.until.min(at),
                _ => {}
            }
        }
        rights
    }

    pub(crate) fn owns(&self) -> bool {
        self.rights().last().is_some_and(|right| right.until > now())
    }

    /// How often it claimed so far.
    pub(crate) fn claims(&self) -> usize {
        self.rights().len()
    }

    /// Waits for a word that came at or after `since`.
    pub(crate) fn hear<T>(&self, since: Instant, what: &str, wanted: impl Fn(&Word) -> Option<T>) -> Result<T> {
        let what = format!("{} to say {what}", self.name);
        let found = wait_for(PATIENCE, &what, || {
            self.words().iter().filter(|(at, _)| *at >= since).find_map(|(_, word)| wanted(word))
        });
        found.with_context(|| format!("it said {:?}", self.words().iter().rev().take(12).collect::<Vec<_>>()))
    }

    pub(crate) fn closed(&self, since: Instant) -> Result<(Term, CloseReason)> {
        self.hear(since, "that a claim ended", |word| match word {
            Word::Close { term, reason } => Some((*term, *reason)),
            _ => None,
        })
    }

    /// Stops it as SIGTERM does: what it closes is confirmed, and then released.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let since = now();
        self.commands.blocking_send(Command::Stop).context("it runs")?;
        let what = format!("{} to close or to end", self.name);
        let closed = wait_for(PATIENCE, &what, || {
            let words = self.words();
            let close = words.iter().filter(|(at, _)| *at >= since).find_map(|(_, word)| match word {
                Word::Close { term, reason: CloseReason::Stopped } => Some(Some(*term)),
                _ => None,
            });
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            close.or(ended.then_some(None))
        })?;
        if let Some(term) = closed {
            self.commands.blocking_send(Command::Closed(term)).context("it runs")?;
        }
        self.join()
    }

    /// Ends it between two instructions, as SIGKILL does: nothing is said, nothing is sent.
    pub(crate) fn kill(&mut self) -> Result<()> {
        drop(self.kill.take());
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        let what = format!("{} to end", self.name);
        wait_for(PATIENCE, &what, || thread.is_finished().then_some(()))?;
        thread.join().map_err(|_| anyhow::anyhow!("{} panicked", self.name))
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        drop(self.kill.take());
        if let Some(thread) = self.thread.take() {
            // Also while a test unwinds: the thread must not outlive its namespace.
            let _panicked = thread.join();
        }
    }
}
