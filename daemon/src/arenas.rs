//! Bound on what the allocator of glibc keeps for threads that do not use it.

/// Arenas: one each for the loop, the data plane and the two workers of the runtime. The default is eight for each core, and what one thread
/// gave back another one does not find: with a thousand Services that was an eighth of the process.
#[cfg(target_env = "gnu")]
const ARENAS: i32 = 4;

/// Sets the bound. To be called before there are threads; elsewhere than with glibc there is nothing to bound.
pub(crate) fn bound() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt (3) sets a number of the allocator's own under its lock, and reads nothing of ours.
        let _taken = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
    }
}
