//! What can go wrong in the lab itself, as opposed to in the thing under test.

use std::time::Duration;

/// Result of a lab operation.
pub type Result<T> = std::result::Result<T, LabError>;

/// A failure of the lab, sorted by whose fault it is.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A tool of the machine (ip, nft) refused.
    #[error("`{command}` failed ({status}): {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// Its exit status.
        status: String,
        /// What it wrote to stderr.
        stderr: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// A condition did not come true in time.
    #[error("waited {after:?} for {what}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// An answer could not be understood.
    #[error("{what}: {detail}")]
    Answer {
        /// Who answered.
        what: String,
        /// What was wrong with the answer.
        detail: String,
    },
}

impl LabError {
    /// Wraps a system error with what was being done.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Like [`LabError::io`] for an errno.
    pub fn errno(what: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let what = what.into();
        move |errno| Self::Io { what, source: errno.into() }
    }

    /// An answer that could not be understood.
    pub fn answer(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Answer { what: what.into(), detail: detail.into() }
    }
}
