//! A wall clock that daemons have to themselves: it jumps when it is told to, and their monotonic clocks and timers go on. By a library of
//! the lab's (`examples/wall.rs`), which the dynamic linker loads before the C library. A library that is not loaded is a line of the
//! linker's and no fault: who uses this shows that the clock did jump.

use std::path::{Path, PathBuf};

use crate::bascule::built;
use crate::{Lab, LabError, Result};

/// As `examples/wall.rs` spells it.
const FILE: &str = "BASCULE_LAB_WALL";

/// The clock of all daemons that are started by it.
#[derive(Debug, Clone)]
pub struct Wall {
    library: PathBuf,
    file: PathBuf,
}

impl Wall {
    /// One that tells the time.
    ///
    /// # Errors
    /// When its library was not built or its file cannot be written.
    pub fn new(lab: &Lab) -> Result<Self> {
        let missing = || LabError::answer("libwall.so", "not built: `cargo build --workspace --all-targets`");
        let library = built("examples/libwall.so")?.ok_or_else(missing)?;
        let wall = Self { library, file: lab.directory().join("wall") };
        wall.set(0)?;
        Ok(wall)
    }

    /// From now on it is ahead by so many seconds.
    ///
    /// # Errors
    /// When its file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let next = self.file.with_extension("next");
        std::fs::write(&next, format!("{seconds:+}\n")).map_err(LabError::io("the wall clock"))?;
        std::fs::rename(&next, &self.file).map_err(LabError::io("the wall clock"))
    }

    /// What a daemon's environment has to say for it.
    pub(crate) fn env(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.library), (FILE, &self.file)]
    }
}
