//! Sees to it that the fence stays on the links that it was put on. Never on the loop's thread: attaching waits for the kernel's rtnl lock.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::tasks::WorldSender;
use crate::dataplane::{FenceGuard, Found, Look};
use crate::metrics::Metrics;
use crate::net::NetError;
use crate::net::netlink::TcEvents;

/// From one look to the next. A look costs a few system calls for each link.
const LOOK: Duration = Duration::from_secs(1);
/// Changes of filters within this time are one; also what a tool that fights for the link can make us do.
const SETTLE: Duration = Duration::from_millis(20);
/// Looks after one that could not put the fence on again, [`SETTLE`] apart, before the node is told. A tcx link whose pin went is taken down a
/// moment later by a worker of the kernel: until then its program still judges, and cannot be put there twice (EEXIST).
const AGAIN: u32 = 5;
/// From one line about a healed fence to the next: between them they are counted.
const QUIET: Duration = Duration::from_secs(10);

/// The running guard.
pub(super) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When the netlink socket cannot be opened.
    pub(super) fn start(guard: FenceGuard, world: WorldSender, metrics: Metrics) -> Result<Self, NetError> {
        let events = TcEvents::open()?;
        let (stop, stopped) = oneshot::channel();
        let watch = Watch { world, metrics, said: Said::default() };
        Ok(Self { stop, task: tokio::spawn(watch.run(guard, events, stopped)) })
    }

    /// Ends it, a look that is under way included: after this the fence may be taken away.
    pub(super) async fn stop(self, within: Duration) {
        let _ended = self.stop.send(());
        if tokio::time::timeout(within, self.task).await.is_err() {
            warn!("the guard of the fence did not end in time; `bascule clean` removes what it may put on yet");
        }
    }
}

/// What was said last.
#[derive(Debug, Default)]
struct Said {
    /// What cannot be put on again, as the loop knows it.
    gap: Option<String>,
    /// The last line about a healed fence, and how many there were since.
    healed: Option<(Instant, u64)>,
    /// The kernel does not tell what stands.
    blind: bool,
}

impl Said {
    /// How many healed fences a line tells of that is due now; `None`: it is not.
    fn healed(&mut self, now: Instant) -> Option<u64> {
        let (at, count) = self.healed.map_or((None, 1), |(at, count)| (Some(at), count + 1));
        match at {
            Some(at) if now.duration_since(at) < QUIET => {
                self.healed = Some((at, count));
                None
            }
            Some(_) | None => {
                self.healed = Some((now, 0));
                Some(count)
            }
        }
    }
}

/// A look, and what further ones made of what it could not heal.
fn look(guard: &mut FenceGuard) -> Look {
    let mut all = guard.look();
    for _ in 0..AGAIN {
        if all.found.iter().all(|found| found.healed.is_ok()) {
            break;
        }
        std::thread::sleep(SETTLE);
        let next = guard.look();
        all.found.retain(|found| found.healed.is_ok());
        all.found.extend(next.found);
        all.unseen = all.unseen.or(next.unseen);
    }
    all
}

struct Watch {
    world: WorldSender,
    metrics: Metrics,
    said: Said,
}

impl Watch {
    async fn run(mut self, mut guard: FenceGuard, mut events: TcEvents, mut stop: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                _ = &mut stop => return,
                changed = events.changed() => {
                    // An error of the socket lasts: without its news the looks go on.
                    tokio::time::sleep(if changed.is_ok() { SETTLE } else { LOOK }).await;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let looked = tokio::task::spawn_blocking(move || {
                let look = look(&mut guard);
                (guard, look)
            });
            // A panic in there has been logged; without a guard the fence is as good as it was before there was one.
            let Ok((back, look)) = looked.await else { return };
            guard = back;
            self.take(look).await;
        }
    }

    async fn take(&mut self, look: Look) {
        let blind = look.unseen.is_some();
        if let Some(error) = look.unseen
            && !self.said.blind
        {
            warn!(%error, "whether the fence still stands cannot be seen");
        }
        self.said.blind = blind;
        let mut gaps = Vec::new();
        for Found { link, missing, healed, .. } in look.found {
            let missing = missing.join(" and ");
            match healed {
                Ok(()) => {
                    self.metrics.fence_healed();
                    if let Some(times) = self.said.healed(Instant::now()) {
                        warn!(link, missing, times, "something took the fence off a link; it stands again");
                    }
                }
                Err(error) => gaps.push(format!("taken off {link} ({missing}), and not put on again: {error}")),
            }
        }
        let gap = (!gaps.is_empty()).then(|| gaps.join("; "));
        if gap != self.said.gap {
            if gap.is_none() {
                info!("the fence stands again on every link");
            }
            self.said.gap.clone_from(&gap);
            self.world.fence_gap(gap).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healed_fences_make_a_line_each_ten_seconds_and_none_is_forgotten() {
        let start = Instant::now();
        let mut said = Said::default();
        assert_eq!(said.healed(start), Some(1));
        for n in 1..=5 {
            assert_eq!(said.healed(start + Duration::from_secs(n)), None);
        }
        assert_eq!(said.healed(start + QUIET), Some(6));
        assert_eq!(said.healed(start + QUIET + QUIET), Some(1));
    }
}
