//! A wall clock that jumps for one process, as its dynamic linker loads it first (`LD_PRELOAD`, see `bascule_lab::Wall`). Nothing but the
//! wall clock is touched: timers, waits and the monotonic clocks are the kernel's own, so that what a process does when it jumps is what
//! the process does. (libfaketime moves the deadlines of timers by as much as the wall clock, whatever their clock is: an hour ahead, every
//! timer of the daemon had fired before it was set.)

use std::env;
use std::ffi::c_int;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use libc::{CLOCK_REALTIME, CLOCK_REALTIME_COARSE, SYS_clock_gettime, clockid_t, timespec};

/// The file that says by how many seconds the wall clock is ahead, in decimal; read each time that somebody asks for the time.
const FILE: &str = "BASCULE_LAB_WALL";

/// 0 where no file is named; a file that is not there or holds no number is the lab's fault, and shows: the clock does not jump.
fn ahead() -> i64 {
    static OF: OnceLock<Option<PathBuf>> = OnceLock::new();
    let file = OF.get_or_init(|| env::var_os(FILE).map(PathBuf::from));
    let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// `clock_gettime(2)`, in place of the C library's.
///
/// # Safety
/// That of the call: `time` is null or points to a `timespec` that may be written.
// SAFETY: no other symbol of this name is linked into this library; that it takes the C library's place is what it is for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    // SAFETY: the kernel checks the pointer, and the caller's word holds for what it writes there.
    let done = unsafe { libc::syscall(SYS_clock_gettime, clock, time) };
    if done != 0 {
        return -1;
    }
    if matches!(clock, CLOCK_REALTIME | CLOCK_REALTIME_COARSE) {
        // SAFETY: the kernel has just written there.
        unsafe { (*time).tv_sec += ahead() };
    }
    0
}
