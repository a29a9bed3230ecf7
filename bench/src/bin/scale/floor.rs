//! A fixed piece of work beside what is measured: how fast the machine was meanwhile.
//!
//! Sizes of the growth table are measured minutes apart, on a machine whose neighbours (and the API server of the bench itself, which shares its
//! caches) make the same instructions cost a third more or less. So costs are compared as multiples of this one, which is of the same kind:
//! lines of memory looked up one after the other, cold each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use nix::time::{ClockId, clock_gettime};

/// Words of memory, one in each line of 64 bytes: 8 MiB, more than a core's own caches.
const LINES: usize = 128 * 1024;
/// Lines that one piece looks up: about three milliseconds on a busy machine.
const STEPS: usize = 16 * 1024;
/// From one piece to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Works until it is asked.
pub(super) struct Floor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(Duration, u32)>>,
}

impl Floor {
    pub(super) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let lines = lines();
            let (mut at, mut spent, mut pieces) = (0, Duration::ZERO, 0);
            while !stopped.load(Ordering::Relaxed) {
                let began = of_thread()?;
                at = walk(&lines, at);
                spent += of_thread()?.saturating_sub(began);
                pieces += 1;
                std::thread::sleep(PAUSE);
            }
            std::hint::black_box(at);
            Ok((spent, pieces))
        });
        Self { stop, thread }
    }

    /// Seconds of processor time that a piece took, on average since the start.
    pub(super) fn stop(self) -> Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let (spent, pieces) = self.thread.join().map_err(|_| anyhow!("the floor's thread panicked"))??;
        Ok(spent.as_secs_f64() / f64::from(pieces.max(1)))
    }
}

/// Each line names the next: one cycle through all of them, in an order that no prefetcher guesses (a full-period linear congruential
/// generator: Knuth, The Art of Computer Programming, volume 2, 3.2.1.2, theorem A).
fn lines() -> Vec<[usize; 8]> {
    let mut lines = vec![[0; 8]; LINES];
    let mut at = 0;
    for _ in 0..LINES {
        let next = (at * 1_664_525 + 1_013_904_223) % LINES;
        lines[at][0] = next;
        at = next;
    }
    lines
}

fn walk(lines: &[[usize; 8]], from: usize) -> usize {
    (0..STEPS).fold(from, |at, _| lines[at][0])
}

fn of_thread() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_visits_every_line() {
        let lines = lines();
        let (mut at, mut seen) = (0, vec![false; LINES]);
        for _ in 0..LINES {
            at = lines[at][0];
            seen[at] = true;
        }
        assert!(at == 0 && seen.into_iter().all(|seen| seen));
    }
}
