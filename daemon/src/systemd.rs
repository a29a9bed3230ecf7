//! What the service manager is told: ready, stopping, and alive. Without `NOTIFY_SOCKET` every call does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tracing::{info, warn};

/// Participation has begun: `systemctl start` returns.
pub fn notify_ready() {
    tell(&[NotifyState::Ready]);
}

/// The addresses are being given away.
pub fn notify_stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Pets the watchdog at half its time, but only while `alive` says that the event loop turns: a process whose runtime lives and whose
/// loop hangs must be restarted. Returns at once where no watchdog is asked for; otherwise never.
pub async fn watchdog(alive: impl Fn() -> bool + Send) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    info!(seconds = limit.as_secs_f64(), "the service manager watches us");
    pet(limit, alive, || tell(&[NotifyState::Watchdog])).await;
}

async fn pet(limit: Duration, alive: impl Fn() -> bool + Send, mut pat: impl FnMut() + Send) {
    // Not at once: the loop may not have had its first turn yet, and READY has just been said.
    let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + limit / 2, limit / 2);
    let mut was = true;
    loop {
        tick.tick().await;
        let is = alive();
        if is {
            pat();
        } else if was {
            warn!("the event loop does not turn: the watchdog is not petted");
        }
        was = is;
    }
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        warn!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_stuck_loop_is_not_petted() {
        let (looks, pats) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (look, pat) = (Arc::clone(&looks), Arc::clone(&pats));
        let (seen, mut enough) = tokio::sync::mpsc::channel(1);
        // Alive for the first three looks, stuck afterwards.
        let alive = move || {
            let n = look.fetch_add(1, Ordering::Relaxed);
            if n == 6 {
                // Full means that it was said already.
                let _said = seen.try_send(());
            }
            n < 3
        };
        let pet = pet(Duration::from_millis(20), alive, move || {
            pat.fetch_add(1, Ordering::Relaxed);
        });
        tokio::select! {
            () = pet => unreachable!("it goes on as long as the process"),
            seen = tokio::time::timeout(Duration::from_secs(10), enough.recv()) => assert_eq!(seen, Ok(Some(()))),
        }
        assert_eq!(pats.load(Ordering::Relaxed), 3);
    }
}
