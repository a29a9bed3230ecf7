//! Arrays mapped into memory: the services, and of the rows those that are just written or read; word by word without a system call.
//!
//! The one place with pointers. A word is stored at once, so a program on another CPU reads the old one or the new one.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// The memory of an array map made with `BPF_F_MMAPABLE`, or of a part of it, as aligned 64-bit words.
#[derive(Debug)]
pub(super) struct Mapped {
    /// At the beginning of a page.
    words: NonNull<AtomicU64>,
    /// Words of that page that belong to no part of ours.
    skipped: usize,
    count: usize,
}

// SAFETY: the memory is shared with the kernel anyway; every access goes through atomics.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    /// Maps the first `count` words of the map. The mapping outlives the descriptor.
    pub(super) fn new(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        Self::part(map, 0, count)
    }

    /// Maps `count` words, at least one, from the word `first` on. Every page that is mapped counts as resident, touched or not.
    pub(super) fn part(map: BorrowedFd<'_>, first: usize, count: usize) -> io::Result<Self> {
        // SAFETY: it only answers.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096) / size_of::<u64>();
        let skipped = first % page;
        let bytes = (skipped + count) * size_of::<u64>();
        let outside = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let offset = libc::off_t::try_from((first - skipped) * size_of::<u64>()).map_err(outside)?;
        let (anywhere, protection) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice; the kernel refuses what lies past the map's end.
        let at = unsafe { libc::mmap(anywhere, bytes, protection, libc::MAP_SHARED, map.as_raw_fd(), offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(at.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(Self { words, skipped, count })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, holds the words that are skipped and `count` more, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().add(self.skipped), self.count) }
    }

    /// How many words there are.
    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Reads the word at `index`; 0 past the end, which is "nothing" in every map that is mapped.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.words().get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Writes the word at `index`; false past the end. What was written before is visible to whoever sees it.
    #[must_use]
    pub(super) fn store(&self, index: usize, word: u64) -> bool {
        self.words().get(index).map(|at| at.store(word, Ordering::Release)).is_some()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody borrows from it any more.
        let _rc = unsafe { libc::munmap(self.words.as_ptr().cast(), (self.skipped + self.count) * size_of::<u64>()) };
    }
}
