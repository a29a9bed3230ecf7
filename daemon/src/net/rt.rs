//! The real-time thread's tools: scheduling class, the clock, a wake-up from other threads and the poller.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bascule_core::time::Instant;
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EfdFlags;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use super::NetError;

/// What the calling thread got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sched {
    /// Runs in SCHED_FIFO at this priority; `None` when the system does not permit it.
    pub fifo: Option<u8>,
    /// The process's memory stays in RAM once touched.
    pub locked: bool,
}

/// Asks for SCHED_FIFO for the calling thread (threads that it starts do not inherit it) and for memory that is never paged out.
/// Not being permitted to is no error: the result says what was granted.
///
/// # Errors
/// When the kernel refuses for another reason, for example a priority outside 1..=99.
pub fn become_realtime(priority: u8) -> Result<Sched, NetError> {
    let param = libc::sched_param { sched_priority: i32::from(priority) };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: `param` is a complete sched_param that outlives the call; 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    let fifo = match Errno::result(result) {
        Ok(_) => Some(priority),
        Err(Errno::EPERM) => None,
        Err(error) => return Err(NetError::system("enter SCHED_FIFO")(error)),
    };
    Ok(Sched { fifo, locked: lock_memory()? })
}

/// Locks pages as they are touched. Only with CAP_IPC_LOCK: under a mere RLIMIT_MEMLOCK every later mapping could fail.
fn lock_memory() -> Result<bool, NetError> {
    if !caps::has_cap(None, CapSet::Effective, Capability::CAP_IPC_LOCK).unwrap_or(false) {
        return Ok(false);
    }
    // SAFETY: no pointers; it changes only how the process's pages are kept.
    let result = unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) };
    match Errno::result(result) {
        Ok(_) => Ok(true),
        // The capability may be one of a user namespace only, which does not count here.
        Err(Errno::EPERM | Errno::ENOMEM) => Ok(false),
        Err(error) => Err(NetError::system("lock memory")(error)),
    }
}

/// Now on CLOCK_BOOTTIME, the clock of the fence.
pub fn boot_now() -> Instant {
    Instant::from_nanos(crate::clock::boot_ns())
}

/// Wakes a [`Poller`] from any thread; clones are the same one.
#[derive(Clone, Debug)]
pub struct EventFd(Arc<nix::sys::eventfd::EventFd>);

impl EventFd {
    /// A wake-up that is not set.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> Result<Self, NetError> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = nix::sys::eventfd::EventFd::from_flags(flags).map_err(NetError::system("make an eventfd"))?;
        Ok(Self(Arc::new(fd)))
    }

    /// Sets it. Never blocks; setting it twice is as good as once.
    pub fn wake(&self) {
        // EAGAIN means that the counter is full, so it is set.
        let _set = self.0.write(1);
    }

    /// Clears it; the poller's thread does this before it looks for work.
    pub fn clear(&self) {
        // EAGAIN means that it was not set.
        let _count = self.0.read();
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Token of the poller's own timer.
const TIMER: u64 = u64::MAX;
/// Descriptors reported by one wait; more stay ready for the next.
const BATCH: usize = 64;

/// What a descriptor is watched for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write; nothing is read.
    Write,
    /// Both.
    Both,
    /// Only its end: errors, and both directions closed.
    Errors,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::Read => EpollFlags::EPOLLIN,
            Self::Write => EpollFlags::EPOLLOUT,
            Self::Both => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            Self::Errors => EpollFlags::empty(),
        }
    }
}

/// epoll with one absolute deadline on CLOCK_BOOTTIME. Level-triggered: what is not read stays ready.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    timer: TimerFd,
    /// What the timer is set to; it has not fired since.
    armed: Option<Instant>,
    ready: Vec<u64>,
}

impl Poller {
    /// A poller without descriptors.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> Result<Self, NetError> {
        let make = || {
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
            epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
            Ok((epoll, timer))
        };
        let (epoll, timer) = make().map_err(NetError::system::<Errno>("make the poller"))?;
        Ok(Self { epoll, timer, armed: None, ready: Vec::with_capacity(BATCH) })
    }

    /// Watches a descriptor for readability (errors included). `token` is what [`Self::wait`] reports.
    ///
    /// # Errors
    /// When it is watched already or cannot be polled, or for the reserved token `u64::MAX`.
    pub fn add(&self, fd: impl AsFd, token: u64) -> Result<(), NetError> {
        self.add_for(fd, token, Interest::Read)
    }

    /// Watches a descriptor for what `interest` says (errors included).
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub fn add_for(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), NetError> {
        let added = if token == TIMER {
            Err(Errno::EINVAL)
        } else {
            self.epoll.add(fd, EpollEvent::new(interest.flags(), token))
        };
        added.map_err(NetError::system("watch a descriptor"))
    }

    /// Changes what a descriptor that is watched is watched for.
    ///
    /// # Errors
    /// When it is not watched.
    pub fn change(&self, fd: impl AsFd, token: u64, interest: Interest) -> Result<(), NetError> {
        let mut event = EpollEvent::new(interest.flags(), token);
        self.epoll.modify(fd, &mut event).map_err(NetError::system("watch a descriptor for something else"))
    }

    /// Stops watching; a closed descriptor has left by itself.
    ///
    /// # Errors
    /// When it was not watched.
    pub fn remove(&self, fd: impl AsFd) -> Result<(), NetError> {
        self.epoll.delete(fd).map_err(NetError::system("forget a descriptor"))
    }

    /// Waits until something is readable or `deadline` has come (at once if it has passed; for ever without one). Returns the tokens
    /// that are ready, none when only the deadline or a signal ended the wait.
    ///
    /// # Errors
    /// When the kernel refuses, which is a bug.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<&[u64], NetError> {
        self.arm_for(deadline)?;
        self.look(EpollTimeout::NONE)
    }

    /// The tokens that are ready now, without a wait. For a poller that a runtime waits for by [`Readiness`].
    ///
    /// # Errors
    /// When the kernel refuses, which is a bug.
    pub fn poll(&mut self) -> Result<&[u64], NetError> {
        self.look(EpollTimeout::ZERO)
    }

    /// Makes [`Readiness::wait`] return when `deadline` has come.
    ///
    /// # Errors
    /// When the kernel refuses, which is a bug.
    pub fn arm_for(&mut self, deadline: Option<Instant>) -> Result<(), NetError> {
        self.arm(deadline).map_err(NetError::system("set the timer"))
    }

    fn look(&mut self, timeout: EpollTimeout) -> Result<&[u64], NetError> {
        let mut events = [EpollEvent::empty(); BATCH];
        self.ready.clear();
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            other => other.map_err(NetError::system("wait for events"))?,
        };
        for event in &events[..count] {
            if event.data() == TIMER {
                // Its readiness ends when it is set anew.
                self.armed = None;
                self.timer.unset().map_err(NetError::system("clear the timer"))?;
            } else {
                self.ready.push(event.data());
            }
        }
        Ok(&self.ready)
    }

    fn arm(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if deadline == self.armed {
            return Ok(());
        }
        match deadline {
            None => self.timer.unset()?,
            Some(at) => {
                // Zero would switch the timer off. Nanoseconds since boot fit an i64 for 292 years.
                let nanos = at.as_nanos().max(1);
                let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
                let rest = i64::try_from(nanos % 1_000_000_000).expect("below a thousand million");
                let expiration = Expiration::OneShot(TimeSpec::new(seconds, rest));
                self.timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            }
        }
        self.armed = deadline;
        Ok(())
    }
}

/// Lets a tokio runtime wait for a [`Poller`]: its deadline is exact to the microsecond where the runtime's own is to the millisecond, and
/// goes on through a suspend.
#[derive(Debug)]
pub struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Must be called inside a runtime with I/O.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn of(poller: &Poller) -> Result<Self, NetError> {
        let what = "watch the poller";
        let copy = poller.epoll.0.try_clone().map_err(NetError::system::<io::Error>(what))?;
        // SAFETY: the OwnedFd owns a valid descriptor, which nothing replaces or closes while the AsyncFd owns it.
        let registered = unsafe { AsyncFd::register_with_interest(copy, tokio::io::Interest::READABLE) };
        registered.map(Self).map_err(|error| NetError::system(what)(io::Error::from(error)))
    }

    /// Returns when the poller has something for [`Poller::poll`], which must then be called until it gives nothing: what it leaves is not
    /// said again.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn wait(&self) -> Result<(), NetError> {
        self.0.readable().await.map_err(NetError::system("wait for the poller"))?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_deadline_ends_the_wait_not_early() {
        let mut poller = Poller::new().expect("poller");
        for _ in 0..3 {
            let at = boot_now() + Duration::from_millis(5);
            assert!(poller.wait(Some(at)).expect("wait").is_empty());
            assert!(boot_now() >= at);
        }
        // A deadline in the past, the same one twice, and the clock's zero: each returns at once.
        let past = boot_now();
        for at in [past, past, Instant::ZERO, Instant::ZERO] {
            assert!(poller.wait(Some(at)).expect("wait").is_empty());
        }
    }

    #[test]
    fn a_wake_from_another_thread_is_reported_until_cleared() {
        let mut poller = Poller::new().expect("poller");
        let wake = EventFd::new().expect("eventfd");
        poller.add(&wake, 7).expect("add");
        let other = wake.clone();
        let thread = std::thread::spawn(move || other.wake());
        assert_eq!(poller.wait(None).expect("wait"), [7]);
        thread.join().expect("thread");
        assert_eq!(poller.wait(None).expect("wait"), [7], "level-triggered");
        wake.clear();
        assert!(poller.wait(Some(boot_now())).expect("wait").is_empty());
        poller.remove(&wake).expect("remove");
        wake.wake();
        assert!(poller.wait(Some(boot_now())).expect("wait").is_empty());
    }

    #[test]
    fn the_reserved_token_is_refused() {
        let poller = Poller::new().expect("poller");
        let wake = EventFd::new().expect("eventfd");
        assert!(poller.add(&wake, u64::MAX).is_err());
    }

    #[test]
    fn what_is_granted_is_what_the_kernel_says() {
        std::thread::spawn(|| {
            let sched = become_realtime(30).expect("only permissions may be missing");
            // SAFETY: 0 is the calling thread; no pointers.
            let policy = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
            assert_eq!(sched.fifo.is_some(), policy == libc::SCHED_FIFO);
            let status = std::fs::read_to_string("/proc/self/status").expect("status");
            let locked = status.lines().find_map(|l| l.strip_prefix("VmLck:")).expect("VmLck");
            assert_eq!(sched.locked, !locked.trim().starts_with("0 "), "{locked}");
            let child = std::thread::spawn(|| {
                // SAFETY: as above.
                unsafe { libc::sched_getscheduler(0) }
            });
            assert_eq!(child.join().expect("child"), libc::SCHED_OTHER, "not inherited");
        })
        .join()
        .expect("thread");
    }

    #[test]
    fn a_priority_out_of_range_is_an_error() {
        assert!(become_realtime(100).is_err());
    }
}
