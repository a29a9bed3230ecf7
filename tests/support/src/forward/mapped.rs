//! An array map in this process's memory: words are written one at a time, each by one aligned store.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{LabError, Result};

/// A mapped array of 64-bit words.
#[derive(Debug)]
pub(super) struct Mapped {
    words: *mut AtomicU64,
    count: usize,
}

// SAFETY: the mapping belongs to no thread, and all access is atomic.
unsafe impl Send for Mapped {}

impl Mapped {
    /// Maps `count` words of the array behind `fd`, which was made with BPF_F_MMAPABLE.
    pub(super) fn new(fd: BorrowedFd<'_>, count: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), count * 8, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(LabError::io("mmap of an array map")(std::io::Error::last_os_error()));
        }
        Ok(Self { words: memory.cast(), count })
    }

    /// One word.
    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "word {index} of {}", self.count);
        // SAFETY: in bounds, page-aligned memory that lives as long as this.
        unsafe { &*self.words.add(index) }
    }

    /// Writes words from `base` on.
    pub(super) fn write(&self, base: usize, words: impl IntoIterator<Item = u64>) {
        for (index, word) in words.into_iter().enumerate() {
            self.word(base + index).store(word, Ordering::Release);
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped; nobody holds a reference into it.
        unsafe { libc::munmap(self.words.cast(), self.count * 8) };
    }
}
