//! The file that says whether this site has a service, by which term, and until when: for a database that must not write without it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bascule_core::time::Instant;

/// One file, of one service.
#[derive(Clone, Debug)]
pub(super) struct TermFile {
    path: PathBuf,
    service: String,
    site: String,
}

impl TermFile {
    pub(super) fn new(path: &Path, service: &str, site: &str) -> Self {
        Self { path: path.to_owned(), service: service.to_owned(), site: site.to_owned() }
    }

    /// Replaces it whole. Whoever reads compares `until` with CLOCK_BOOTTIME, for a daemon that stands still writes nothing: with the first
    /// number of /proc/uptime, which is that clock.
    pub(super) fn write(&self, grant: Option<(u64, Instant)>) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        if let Some(dir) = self.path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file = File::create(&beside)?;
        file.write_all(self.text(grant).as_bytes())?;
        fs::rename(&beside, &self.path)
    }

    fn text(&self, grant: Option<(u64, Instant)>) -> String {
        let Self { service, site, .. } = self;
        let (active, term, until) = match grant {
            Some((term, until)) => ("yes", term, until.as_nanos() / 1_000_000),
            None => ("no", 0, 0),
        };
        format!(
            "service={service}\nsite={site}\nactive={active}\nterm={term}\nuntil={}.{:03}\n",
            until / 1000,
            until % 1000
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_the_term_and_its_end_and_is_replaced_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = TermFile::new(&dir.path().join("deep/db"), "db", "dc-a");
        let read = || fs::read_to_string(dir.path().join("deep/db")).expect("a file");
        file.write(Some((41, Instant::from_nanos(12_345_678_999)))).expect("written");
        assert_eq!(read(), "service=db\nsite=dc-a\nactive=yes\nterm=41\nuntil=12.345\n", "never later than it is");
        file.write(None).expect("written");
        assert_eq!(read(), "service=db\nsite=dc-a\nactive=no\nterm=0\nuntil=0.000\n");
        assert_eq!(fs::read_dir(dir.path().join("deep")).expect("a directory").count(), 1, "nothing is left beside it");
    }
}
