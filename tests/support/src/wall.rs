//! A wall clock that daemons have to themselves: it jumps when it is told to, and their monotonic clocks go on. By libfaketime, which the
//! dynamic linker loads before the C library. A library that is not there is a line of the linker's and no fault: who uses this shows that
//! the clock did jump.

use std::path::PathBuf;

use crate::{Lab, LabError, Result};

/// Where Debian has it; the linker knows what `$LIB` is on this machine.
const LIBRARY: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";
/// A second, the least that it has: so late a jump may be seen.
const REREAD_S: &str = "1";

/// The clock of all daemons that are started by it.
#[derive(Debug, Clone)]
pub struct Wall {
    file: PathBuf,
}

impl Wall {
    /// One that tells the time.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn new(lab: &Lab) -> Result<Self> {
        let wall = Self { file: lab.directory().join("wall") };
        wall.set(0)?;
        Ok(wall)
    }

    /// From now on it is ahead by so many seconds. Seen a second later.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).map_err(LabError::io("the wall clock"))?;
        std::fs::rename(&next, &self.file).map_err(LabError::io("the wall clock"))
    }

    /// What a daemon's environment has to say for it.
    pub(crate) fn env(&self) -> [(&'static str, String); 4] {
        [
            ("LD_PRELOAD", LIBRARY.to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", REREAD_S.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}
