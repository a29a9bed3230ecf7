//! The incarnation on the disk: what keeps a restarted relay from writing in an old time.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::pki;

/// Why the incarnation is not known or not kept. Nothing may be exported then.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no number. Nobody but us writes it, and we write it whole: look before you remove it.
    #[error("{}: {text:?} is not an incarnation", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
}

/// A file with one number.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) path: PathBuf,
}

impl Disk {
    /// The last incarnation; 0 when there was none.
    pub(super) fn read(&self) -> Result<u64, DiskError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => text.trim_end().parse().map_err(|_| DiskError::Content { path: self.path.clone(), text }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(DiskError::File { path: self.path.clone(), source }),
        }
    }

    /// Is there after this, whatever happens to the machine.
    pub(super) fn write(&self, incarnation: u64) -> Result<(), DiskError> {
        pki::replace(&self.path, format!("{incarnation}\n").as_bytes(), 0o600)
            .map_err(|source| DiskError::File { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_kept_whole_and_nonsense_is_not_taken_for_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk { path: dir.path().join("incarnation") };
        assert_eq!(disk.read().expect("nothing yet"), 0);
        for n in [1, 7, u64::MAX] {
            disk.write(n).expect("written");
            assert_eq!(disk.read().expect("a number"), n);
        }
        // What a crash in the middle of a write leaves.
        fs::write(dir.path().join("incarnation.new"), "12").expect("written");
        disk.write(9).expect("written");
        assert_eq!(disk.read().expect("a number"), 9);
        fs::write(&disk.path, "").expect("written");
        assert!(matches!(disk.read(), Err(DiskError::Content { .. })));
        fs::remove_file(&disk.path).and_then(|()| fs::create_dir(&disk.path)).expect("a directory in its place");
        assert!(matches!(disk.read(), Err(DiskError::File { .. })));
        assert!(disk.write(3).is_err());
    }
}
