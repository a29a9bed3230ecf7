//! Which processor runs what: clients on the first, servers on the second, haproxy where it likes. Left to the scheduler, the same transfer
//! is a third faster or slower by where its two ends happen to be.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Ends of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// What opens connections.
    Clients,
    /// What takes them.
    Servers,
}

/// The calling thread stays on its processor as long as this lives, and so do threads that it starts meanwhile, for ever.
pub(super) struct Taken(CpuSet);

impl Place {
    /// Puts the calling thread on its processor; on a machine with one it stays where it is.
    pub(super) fn take(self) -> Result<Taken> {
        let all = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
        let usable: Vec<usize> = (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu).unwrap_or(false)).collect();
        let index = match self {
            Self::Clients => 0,
            Self::Servers => usable.len().min(2) - 1,
        };
        let mut one = CpuSet::new();
        one.set(*usable.get(index).context("a processor")?).context("a processor's number")?;
        sched_setaffinity(Pid::from_raw(0), &one).context("sched_setaffinity")?;
        Ok(Taken(all))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        sched_setaffinity(Pid::from_raw(0), &self.0).expect("the processors from before are still there");
    }
}
