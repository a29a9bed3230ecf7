//! Scheduling class of the lab's own timed threads.

use crate::{LabError, Result};

/// Priority of the lab's timed threads: above what the daemons take (49 and 50). They run for some microseconds per packet, which
/// delays no daemon; below them they were 10 ms late whenever a keepalived took over, and blamed it for that.
pub(crate) const PRIORITY: i32 = 60;

/// Puts the calling thread into SCHED_FIFO at [`PRIORITY`]; false when that is not permitted.
pub fn fifo() -> bool {
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: `param` is a valid sched_param that outlives the call; 0 names the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const param) == 0 }
}

/// Puts every thread of this process whose name starts with `prefix` into SCHED_FIFO, below the timed threads; how many there were.
///
/// # Errors
/// When that is not permitted.
pub fn fifo_threads(prefix: &str) -> Result<usize> {
    let param = libc::sched_param { sched_priority: PRIORITY - 1 };
    let mut count = 0;
    for task in std::fs::read_dir("/proc/self/task").map_err(LabError::io("/proc/self/task"))?.flatten() {
        // A thread may end meanwhile.
        let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else { continue };
        let Some(id) = task.file_name().to_str().and_then(|id| id.parse::<libc::pid_t>().ok()) else { continue };
        if !name.starts_with(prefix) {
            continue;
        }
        // SAFETY: `param` is a valid sched_param that outlives the call; `id` names a thread of ours.
        if unsafe { libc::sched_setscheduler(id, libc::SCHED_FIFO, &raw const param) } != 0 {
            return Err(LabError::io(format!("SCHED_FIFO for {}", name.trim()))(std::io::Error::last_os_error()));
        }
        count += 1;
    }
    Ok(count)
}
