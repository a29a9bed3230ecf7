//! How soon a dead owner of an etcd lease has a successor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bascule_core::election::lease::Word;
use bascule_core::election::lease::timing::Timing;
use bascule_lab::etcd::Data;
use bascule_lab::{Stamp, sleep_until};
use bascule_suite::candidate::{check, now};
use bascule_suite::etcd::Scene;

const TTL: Duration = Duration::from_secs(5);
/// Beyond the TTL: at most 0.5 s until etcd looks for leases that ran out, and the watch, a grant and a transaction (ADR 0009).
const BEYOND: Duration = Duration::from_millis(1500);
/// A machine that is later than this says nothing about the elector.
const VOID: Duration = Duration::from_millis(100);
/// Rounds that count, and rounds in all.
const ROUNDS: usize = 3;
const TRIES: usize = 9;

/// A thread that sleeps for 5 ms again and again: its greatest lateness is the machine's.
struct Lateness {
    nanos: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Lateness {
    fn start() -> Self {
        let (nanos, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, over) = (nanos.clone(), end.clone());
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let at = Stamp::now() + Duration::from_millis(5);
                sleep_until(at);
                let late = Stamp::now().since(at).as_nanos();
                seen.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { nanos, end, thread }
    }

    fn stop(self) -> Duration {
        self.end.store(true, Ordering::Relaxed);
        let _panicked = self.thread.join();
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }
}

/// From the last renewal of an owner that is killed until another owns, and the machine's lateness meanwhile.
fn take_over() -> Result<(Duration, Duration)> {
    let mut scene = Scene::new("etcdtime", 1, 2, Data::Memory)?;
    scene.start_all(TTL)?;
    let owner = scene.owner(|_| true)?;
    // The other knows the holder and watches by then.
    scene.candidates[owner].hear(now(), "a renewal", |word| matches!(word, Word::Extend { .. }).then_some(()))?;
    let lateness = Lateness::start();
    scene.candidates[owner].kill()?;
    let last = scene.candidates[owner].rights().last().copied().context("it owned")?;
    let next = scene.owner(|i| i != owner)?;
    let late = lateness.stop();
    let from = scene.candidates[next].rights().last().context("it owns")?.from;
    check(&scene.candidates)?;
    scene.candidates[next].stop()?;
    // The right ended a hold after the renewal was sent.
    let unused = TTL - Timing::etcd(TTL)?.hold();
    Ok((from.since(last.until) + TTL - unused, late))
}

#[test]
fn a_dead_owner_has_a_successor_within_the_ttl_and_a_second_and_a_half() -> Result<()> {
    let mut counted = 0;
    for _ in 0..TRIES {
        let (took, late) = take_over()?;
        let void = late > VOID;
        println!(
            "TTL {TTL:?}: successor {took:?} after the last renewal, lateness {late:?}{}",
            if void { ", void" } else { "" }
        );
        ensure!(took >= TTL, "{took:?}: before the lease can have run out");
        if void {
            continue;
        }
        ensure!(took <= TTL + BEYOND, "{took:?}");
        counted += 1;
        if counted == ROUNDS {
            return Ok(());
        }
    }
    println!("not judged: the machine was late in too many of {TRIES} rounds, {counted} count");
    Ok(())
}
