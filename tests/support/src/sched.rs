//! Scheduling class of the lab's own timed threads.

/// Priority of the lab's timed threads: below what a daemon would take (Bascule and keepalived are run at 50 and more), so
/// that the meter never delays what it measures, and above everything ordinary.
pub(crate) const PRIORITY: i32 = 10;

/// Puts the calling thread into SCHED_FIFO at [`PRIORITY`]; false when that is not permitted.
pub fn fifo() -> bool {
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `param` is a valid sched_param that outlives the call; 0 names the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}
