//! What the rest of the machine did meanwhile: a part in which others took the processors says little about floods.

use anyhow::{Context, Result};

/// Ticks of user mode a second (USER_HZ, fixed on Linux for /proc).
const HZ: f64 = 100.0;

/// Seconds that other processes were in user mode so far, and that a hypervisor took, all processors together.
pub(super) fn seconds() -> Result<f64> {
    let all = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    // cpu  user nice system idle iowait irq softirq steal (proc_stat(5))
    let ticks: Vec<f64> = all.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let [user, nice, .., steal] = ticks[..] else { anyhow::bail!("/proc/stat: {all}") };
    let own = std::fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    // Behind the name: state is field 3; utime 14, cutime 16 (proc_pid_stat(5)).
    let behind = own.rsplit_once(')').context("a name in parentheses")?.1;
    let field = |number: usize| behind.split_whitespace().nth(number - 3).and_then(|word| word.parse::<f64>().ok());
    let mine = field(14).zip(field(16)).map(|(utime, cutime)| utime + cutime).context("utime and cutime")?;
    Ok((user + nice + steal - mine) / HZ)
}
