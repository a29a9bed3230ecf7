//! Scheduling class of the lab's own timed threads.

/// Priority of the lab's timed threads: above what the daemons take (49 and 50). They run for some microseconds per packet, which
/// delays no daemon; below them they were 10 ms late whenever a keepalived took over, and blamed it for that.
pub(crate) const PRIORITY: i32 = 60;

/// Puts the calling thread into SCHED_FIFO at [`PRIORITY`]; false when that is not permitted.
pub fn fifo() -> bool {
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `param` is a valid sched_param that outlives the call; 0 names the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}
