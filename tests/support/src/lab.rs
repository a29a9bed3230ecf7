//! One laboratory: the prefix of its names, its directory, what it makes.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;

use crate::leftovers::{own_prefix, sweep_dead};
use crate::{Bridge, BridgeOptions, LabError, Netns, Port, ProcessBuilder, Result};

/// A laboratory. Several may be alive at once, in one process or many.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    directory: tempfile::TempDir,
}

impl Lab {
    /// Makes an empty lab. The first one of a process removes what dead labs left behind.
    ///
    /// # Errors
    /// When the temporary directory cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(sweep_dead);
        let prefix = format!("{}-{}-{name}", own_prefix(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir();
        let lab = Self { directory: directory.map_err(LabError::io("the lab's directory"))?, prefix };
        std::fs::create_dir(lab.logs()).map_err(LabError::io("the lab's logs"))?;
        Ok(lab)
    }

    /// What every name of this lab starts with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The lab's own directory: logs, sockets, configuration. Removed with the lab.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where logs lie: apart from configuration, or each line would wake the daemon that watches the folder of its file.
    pub(crate) fn logs(&self) -> PathBuf {
        self.directory().join("logs")
    }

    /// A new network namespace.
    ///
    /// # Errors
    /// When `ip netns add` fails, for example because the name is taken in this lab.
    pub fn netns(&self, name: &str) -> Result<Netns> {
        Netns::create(&self.prefix, name)
    }

    /// A switch: a bridge in a namespace of its own.
    ///
    /// # Errors
    /// When the namespace or the bridge cannot be made.
    pub fn bridge(&self, name: &str, options: &BridgeOptions) -> Result<Bridge> {
        Bridge::create(self.netns(&format!("sw-{name}"))?, options)
    }

    /// A node or client: a namespace with one link `eth0` on `lan`.
    ///
    /// # Errors
    /// When a part of it cannot be made.
    pub fn host(&self, name: &str, lan: &Bridge, addresses: &[IpNet]) -> Result<(Netns, Port)> {
        let netns = self.netns(name)?;
        let port = lan.attach(&netns, "eth0", addresses)?;
        Ok((netns, port))
    }

    /// A program to start in `netns`.
    pub fn process(&self, name: &str, netns: &Netns, program: impl AsRef<Path>) -> ProcessBuilder {
        ProcessBuilder::new(self, name, netns, program.as_ref())
    }
}
