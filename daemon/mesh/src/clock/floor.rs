//! The floor of the clock of certificates (F23): a wall clock that was set back, or begins in 1970 because its battery is dead, makes no
//! certificate "not valid yet" that was good before.
//!
//! The floor is the later one of the time of this source and of the last time at which a certificate of somebody else was believed; from then
//! on it advances by the clock of the machines. That last time is kept in a file, once an hour. Only believed certificates raise it: a clock
//! that stands in 2100 believes none, so what it says is forgotten as soon as it is right again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, io, thread};

use bascule_core::time::Instant;

use super::Clock;
use crate::pki;

/// No certificate is held against an earlier time than this, since 1970: 1 November 2026, before which nothing of this source ran. Raised with
/// each release.
pub const RELEASED: Duration = Duration::from_secs(1_793_491_200);
/// The file is written when it is behind by so much: certificates live for days.
const KEPT: Duration = Duration::from_secs(3600);

/// A clock whose wall clock is never behind what is known.
#[derive(Debug)]
pub struct Floor {
    clock: Arc<dyn Clock>,
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// The floor, and when it was that.
    at: (Instant, Duration),
    /// What the file holds.
    kept: Duration,
}

impl Floor {
    /// Of a clock, with what the file holds. One that is not there or holds no number is as good as none; it is written once something was believed.
    pub fn new(clock: Arc<dyn Clock>, file: PathBuf) -> Self {
        let kept = read(&file).unwrap_or_default();
        let known = Known { at: (clock.now(), kept.max(RELEASED)), kept };
        Self { clock, file, known: Mutex::new(known) }
    }

    fn floor(&self, known: &Known) -> Duration {
        known.at.1 + self.clock.now().since(known.at.0)
    }
}

impl Clock for Floor {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn unix(&self) -> Duration {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.clock.unix().max(self.floor(&known))
    }

    fn believed(&self, unix: Duration) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if unix > self.floor(&known) {
            known.at = (self.clock.now(), unix);
        }
        if unix.saturating_sub(known.kept) < KEPT {
            return;
        }
        known.kept = unix;
        drop(known);
        let file = self.file.clone();
        // Beside everybody: a disk that hangs holds up no session. What cannot be kept is tried again in an hour.
        let _beside = thread::Builder::new().name("floor".to_owned()).spawn(move || write(&file, unix));
    }

    fn sleep(&self, span: Duration) -> Duration {
        self.clock.sleep(span)
    }
}

fn read(file: &Path) -> Option<Duration> {
    fs::read_to_string(file).ok()?.trim_end().parse().ok().map(Duration::from_secs)
}

fn write(file: &Path, unix: Duration) -> io::Result<()> {
    pki::replace(file, format!("{}\n", unix.as_secs()).as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Seconds of the machines and of the wall.
    #[derive(Debug, Default)]
    struct Set(AtomicU64, AtomicU64);

    impl Set {
        fn to(&self, now: u64, wall: u64) {
            self.0.store(now, Ordering::Relaxed);
            self.1.store(wall, Ordering::Relaxed);
        }
    }

    impl Clock for Set {
        fn now(&self) -> Instant {
            Instant::from_nanos(self.0.load(Ordering::Relaxed) * 1_000_000_000)
        }

        fn unix(&self) -> Duration {
            Duration::from_secs(self.1.load(Ordering::Relaxed))
        }
    }

    const TODAY: u64 = 1_800_000_000;

    fn kept(file: &Path, wanted: u64) {
        for _ in 0..1000 {
            if read(file) == Some(Duration::from_secs(wanted)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("{wanted} was not kept: {:?}", read(file));
    }

    #[test]
    fn a_wall_clock_that_goes_back_goes_on_from_what_was_believed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (clock, file) = (Arc::new(Set::default()), dir.path().join("clock"));
        clock.to(100, TODAY);
        let floor = Floor::new(clock.clone(), file.clone());
        assert_eq!(floor.unix().as_secs(), TODAY);
        // What nobody believed is no floor.
        clock.to(101, 0);
        assert_eq!(floor.unix(), RELEASED + Duration::from_secs(1), "never before this source was written");
        clock.to(110, TODAY + 10);
        floor.believed(floor.unix());
        kept(&file, TODAY + 10);
        // 1970, an hour back, an hour ahead, and a clock that loses two seconds a minute.
        for (now, wall, shown) in [
            (120, 0, TODAY + 20),
            (130, TODAY - 3600, TODAY + 30),
            (140, TODAY + 3640, TODAY + 3640),
            (150, TODAY + 50, TODAY + 50),
            (210, TODAY + 108, TODAY + 110),
        ] {
            clock.to(now, wall);
            assert_eq!(floor.unix().as_secs(), shown, "{now}");
        }
        // Also while the wall clock is wrong the file does not fall behind.
        clock.to(110 + 3600, 0);
        floor.believed(floor.unix());
        kept(&file, TODAY + 3610);
        // The next start, in 1970.
        clock.to(5, 0);
        let next = Floor::new(clock.clone(), file.clone());
        assert_eq!(next.unix().as_secs(), TODAY + 3610);
        clock.to(65, 60);
        assert_eq!(next.unix().as_secs(), TODAY + 3670);
    }

    #[test]
    fn a_clock_that_was_far_ahead_and_a_spoiled_file_are_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let (clock, file) = (Arc::new(Set::default()), dir.path().join("clock"));
        fs::write(&file, "soon\n").expect("written");
        clock.to(1, TODAY * 2);
        let floor = Floor::new(clock.clone(), file.clone());
        assert_eq!(floor.unix().as_secs(), TODAY * 2);
        clock.to(2, TODAY);
        assert_eq!(floor.unix().as_secs(), TODAY);
        floor.believed(floor.unix());
        kept(&file, TODAY);
        // Within the hour the file stays as it is.
        clock.to(3, TODAY + 3599);
        floor.believed(floor.unix());
        assert_eq!(read(&file).map(|at| at.as_secs()), Some(TODAY));
        clock.to(4, TODAY + 3600);
        floor.believed(floor.unix());
        kept(&file, TODAY + 3600);
    }
}
