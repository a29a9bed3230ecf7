//! Time, and rates per time.
//!
//! `bpf_ktime_get_boot_ns` and not the cheaper coarse clock (by 17 ns here): that one is `CLOCK_MONOTONIC`, which stands still while a
//! machine is suspended, and the stamps of rows are minutes of `CLOCK_BOOTTIME`. After one suspension every previous home would look
//! expired, for as long as the machine runs. It is read only where it decides: a row that moved, a known flow.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

use crate::maps;

const SECOND_NS: u64 = 1_000_000_000;

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Seconds of `CLOCK_BOOTTIME`.
#[inline(always)]
pub(crate) fn boot_s() -> u32 {
    (boot_ns() / SECOND_NS) as u32
}

/// Minutes of `CLOCK_BOOTTIME`, modulo 2^16, as in the stamps of rows.
#[inline(always)]
pub(crate) fn boot_minutes() -> u16 {
    (boot_ns() / (60 * SECOND_NS)) as u16
}

/// Takes a token from this CPU's bucket `which`, which holds what one second at `rate` gives.
#[inline(always)]
pub(crate) fn take(which: u32, rate: u32) -> bool {
    let Some(bucket) = maps::BUCKETS.get_ptr_mut(which) else { return false };
    let now = boot_ns();
    let rate = u64::from(rate);
    // SAFETY: a valid per-CPU value; programs of one CPU's softirq level do not interleave on it.
    unsafe {
        let elapsed = now.wrapping_sub((*bucket).filled_ns);
        let mut tokens = (*bucket).tokens;
        if elapsed >= SECOND_NS {
            tokens = rate;
            (*bucket).filled_ns = now;
        } else {
            let earned = elapsed * rate / SECOND_NS;
            if earned > 0 {
                tokens += earned;
                (*bucket).filled_ns = now;
            }
        }
        if tokens > rate {
            tokens = rate;
        }
        let granted = tokens > 0;
        (*bucket).tokens = tokens - u64::from(granted);
        granted
    }
}
