//! One lease elector in the namespace of a node, and what it said when; whatever its store is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_core::election::lease::{CloseReason, Command, Word};
use bascule_core::time::Instant;
use bascule_core::types::Term;
use bascule_lab::{Netns, wait_for};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{mpsc, oneshot};

/// How long anything may take that must happen, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How soon a freeze takes hold.
const FREEZE: Duration = Duration::from_millis(5);

/// CLOCK_BOOTTIME: one for all candidates.
pub fn now() -> Instant {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("the clock exists on every Linux");
    Instant::from_nanos(u64::try_from(Duration::from(now).as_nanos()).expect("it is not that late"))
}

/// From a claim until it was over.
#[derive(Debug, Clone, Copy)]
pub struct Right {
    /// Said then.
    pub from: Instant,
    /// Closed or past its deadline then.
    pub until: Instant,
}

/// Takes the words of an elector.
pub type Say = Box<dyn FnMut(Word) + Send>;

/// A running elector.
pub struct Candidate {
    /// Its node's.
    pub name: String,
    commands: mpsc::Sender<Command>,
    words: Arc<Mutex<Vec<(Instant, Word)>>>,
    frozen: Arc<Mutex<()>>,
    kill: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Candidate {
    /// Starts the elector that `drive` runs: it is handed what it is told and what it may say.
    ///
    /// # Errors
    /// When there is no runtime for it.
    pub fn start<F: Future<Output = ()>>(
        netns: &Netns,
        drive: impl FnOnce(mpsc::Receiver<Command>, Say) -> F + Send + 'static,
    ) -> Result<Self> {
        let name = netns.name().to_owned();
        let (commands, received) = mpsc::channel(8);
        let (kill, killed) = oneshot::channel();
        let words = Arc::new(Mutex::new(Vec::new()));
        let heard = words.clone();
        let frozen = Arc::new(Mutex::new(()));
        let gate = frozen.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
        // The runtime lives on this one thread, and what it connects belongs to the thread's namespace.
        let thread = netns.spawn("elector", move || {
            let say: Say =
                Box::new(move |word| heard.lock().unwrap_or_else(PoisonError::into_inner).push((now(), word)));
            runtime.block_on(async {
                tokio::select! {
                    () = drive(received, say) => {}
                    _ = killed => {}
                    () = stand_still(&gate) => {}
                }
            });
        });
        Ok(Self { name, commands, words, frozen, kill: Some(kill), thread: Some(thread) })
    }

    /// Everything that it said so far, and when.
    pub fn words(&self) -> Vec<(Instant, Word)> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything that it was ever entitled to. A claim ends at its close, and at its deadline if that was earlier: the kernel closes by
    /// itself.
    pub fn rights(&self) -> Vec<Right> {
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

    /// Is it entitled now?
    pub fn owns(&self) -> bool {
        self.rights().last().is_some_and(|right| right.until > now())
    }

    /// How often it claimed so far.
    pub fn claims(&self) -> usize {
        self.rights().len()
    }

    /// Waits for a word that came at or after `since`.
    ///
    /// # Errors
    /// When it does not come; its last words are in the error.
    pub fn hear<T>(&self, since: Instant, what: &str, wanted: impl Fn(&Word) -> Option<T>) -> Result<T> {
        let what = format!("{} to say {what}", self.name);
        let found = wait_for(PATIENCE, &what, || {
            self.words().iter().filter(|(at, _)| *at >= since).find_map(|(_, word)| wanted(word))
        });
        found.with_context(|| format!("it said {:?}", self.words().iter().rev().take(12).collect::<Vec<_>>()))
    }

    /// Waits for the end of a claim.
    ///
    /// # Errors
    /// Those of [`Candidate::hear`].
    pub fn closed(&self, since: Instant) -> Result<(Term, CloseReason)> {
        self.hear(since, "that a claim ended", |word| match word {
            Word::Close { term, reason } => Some((*term, *reason)),
            _ => None,
        })
    }

    /// Stops it as SIGTERM does: what it closes is confirmed, and then released.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(&mut self) -> Result<()> {
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
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        drop(self.kill.take());
        self.join()
    }

    /// Its thread stands still between two instructions until the guard is dropped; the kernel goes on with its sockets.
    pub fn freeze(&self) -> MutexGuard<'_, ()> {
        self.frozen.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Blocks the thread, and every task on it, while `gate` is locked. Never ends.
async fn stand_still(gate: &Mutex<()>) {
    loop {
        drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::time::sleep(FREEZE).await;
    }
}

/// Never were two of them entitled at one time.
///
/// # Errors
/// When two were, or nobody ever was.
pub fn check(candidates: &[Candidate]) -> Result<()> {
    let rights = |c: &Candidate| c.rights().into_iter().map(|right| (c.name.clone(), right)).collect::<Vec<_>>();
    let all: Vec<(String, Right)> = candidates.iter().flat_map(rights).collect();
    ensure!(!all.is_empty(), "somebody owned");
    ensure!(overlaps(&all).is_empty(), "{:?}", overlaps(&all));
    Ok(())
}

/// Pairs of different candidates that were entitled at one time.
fn overlaps(all: &[(String, Right)]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, (name, one)) in all.iter().enumerate() {
        for (other, another) in all[at + 1..].iter().filter(|(other, _)| other != name) {
            if one.until > another.from && another.until > one.from {
                found.push(format!("{name} {one:?} and {other} {another:?}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_second_owner_is_found() {
        let right = |name: &str, from: u64, until: u64| {
            (name.to_owned(), Right { from: Instant::from_nanos(from), until: Instant::from_nanos(until) })
        };
        let apart = [right("a", 1, 5), right("b", 5, 9), right("a", 2, 4), right("a", 9, 12)];
        assert_eq!(overlaps(&apart), Vec::<String>::new());
        assert_eq!(overlaps(&[right("a", 1, 5), right("b", 4, 9)]).len(), 1);
        assert_eq!(overlaps(&[right("a", 3, 5), right("b", 1, 9)]).len(), 1);
    }
}
