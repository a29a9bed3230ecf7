//! Files that are there whole or not at all, with the mode they need.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::PkiError;

/// The certificate of a relay.
pub const RELAY_CERTIFICATE: &str = "relay.pem";
/// Its key.
pub const RELAY_KEY: &str = "relay.key";
/// Its request, for the authority to sign.
pub const RELAY_REQUEST: &str = "relay.csr";
/// Authorities whose certificates are accepted.
pub const TRUST: &str = "trust.pem";
/// Their revocation lists.
pub const REVOKED: &str = "revoked.pem";
/// Mode of a key.
pub(super) const SECRET: u32 = 0o600;
/// Mode of what everybody may read.
pub(super) const OPEN: u32 = 0o644;

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    replace(path, text.as_bytes(), mode).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), PkiError> {
    fs::rename(from, to).map_err(|source| PkiError::File { path: from.to_owned(), source })
}

pub(super) fn remove(path: &Path) -> Result<(), PkiError> {
    fs::remove_file(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

pub(super) fn make_dir(path: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(path).map_err(|source| PkiError::File { path: path.to_owned(), source })
}

/// Writes beside, makes it durable, renames: after a crash there is the old file or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // What an interrupted write left.
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
