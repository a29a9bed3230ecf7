//! An intent on disk: two lines of JSON, a head that says what the second line is, and the intent.
//!
//! Written beside the old file and moved over it, so that a crash leaves one or the other. What cannot be read is kept aside for whoever
//! wants to know why, and the daemon goes on without.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bascule_core::intent::{Checksum, Intent, checksum};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of the file. Fields that are added have defaults; anything else is a new version.
const VERSION: u32 = 1;
/// Largest file: 5,000 Services of 20 endpoints take a fifth of it.
const FILE_MAX: u64 = 128 << 20;

/// Bytes that are written at once: of a large intent each writing is an event to whoever watches the folder.
const CHUNK: usize = 256 << 10;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    /// Always "intent".
    bascule: String,
    version: u32,
    /// Milliseconds since 1970 at which it was the API server's word.
    unix_ms: u64,
    /// [`checksum`] of the second line, hexadecimal. May be missing in a file of another writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

/// Why there is no intent in a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{path}: {what}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        what: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// It is damaged, or not one of ours.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// It was written by a version that this one does not know.
    #[error("{path}: version {found} is not known, only {VERSION}")]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u32,
    },
}

/// A writer that sums up what goes through it.
struct Summed<W> {
    to: W,
    sum: Checksum,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.sum.write(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writes both lines, without the whole text in memory: of a large cluster it is tens of MiB. The head is as long whatever the sum.
fn write_text(mut file: &File, intent: &Intent, at: SystemTime) -> io::Result<()> {
    let unix_ms = at.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
    let head = |sum: u64| {
        let checksum = Some(format!("{sum:016x}"));
        serde_json::to_string(&Head { bascule: "intent".to_owned(), version: VERSION, unix_ms, checksum })
    };
    writeln!(file, "{}", head(0)?)?;
    let mut body = Summed { to: BufWriter::with_capacity(CHUNK, file), sum: Checksum::default() };
    serde_json::to_writer(&mut body, intent)?;
    let Summed { mut to, sum } = body;
    to.write_all(b"\n")?;
    to.flush()?;
    drop(to);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(head(sum.finish())?.as_bytes())
}

/// Writes an intent in the place of the file, whole or not at all. Its folder is made if it is missing; only root reads it.
///
/// # Errors
/// [`FileError::Io`]; the old file is as it was.
pub fn write(path: &Path, intent: &Intent, at: SystemTime) -> Result<(), FileError> {
    let wrong = |what| move |source| FileError::Io { path: path.display().to_string(), what, source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(wrong("making its folder"))?;
    }
    let new = beside(path, "new");
    let written = || -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        write_text(&file, intent, at)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().map_err(wrong("writing it"))
}

/// The intent of a file, and when it was the API server's word; `None` when there is no file.
///
/// # Errors
/// [`FileError`]: what is there is none.
pub fn read(path: &Path) -> Result<Option<(Intent, SystemTime)>, FileError> {
    let name = || path.display().to_string();
    let wrong = |what| move |source| FileError::Io { path: name(), what, source };
    let damaged = |what: String| FileError::Damaged { path: name(), what };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong("opening it")(error)),
    };
    let mut bytes = Vec::new();
    let length = file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(wrong("reading it"))?;
    if u64::try_from(length).is_ok_and(|length| length > FILE_MAX) {
        return Err(damaged(format!("it is larger than {FILE_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is not UTF-8".to_owned()))?;
    let (head, body) =
        text.split_once('\n').ok_or_else(|| damaged("it has one line, and should have two".to_owned()))?;
    let body = body.strip_suffix('\n').unwrap_or(body);
    let head: Head = serde_json::from_str(head).map_err(|e| damaged(format!("its first line: {e}")))?;
    if head.bascule != "intent" {
        return Err(damaged(format!("it holds {}, not an intent", head.bascule)));
    }
    if head.version != VERSION {
        return Err(FileError::Version { path: name(), found: head.version });
    }
    let found = format!("{:016x}", checksum(body.as_bytes()));
    if head.checksum.as_ref().is_some_and(|wanted| *wanted != found) {
        return Err(damaged(format!("its sum is {found}, and should be {}", head.checksum.unwrap_or_default())));
    }
    let intent = serde_json::from_str(body).map_err(|e| damaged(format!("its second line: {e}")))?;
    Ok(Some((intent, UNIX_EPOCH + Duration::from_millis(head.unix_ms))))
}

/// Moves a file that is none out of the way; gives where to. An older one there is replaced.
///
/// # Errors
/// When it cannot be moved.
pub fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, "damaged");
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(end);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use bascule_core::intent::NodeIntent;

    use super::*;

    fn intent() -> Intent {
        let node = NodeIntent { id: Some(7), addresses: vec![[10, 9, 0, 1].into()], ..NodeIntent::default() };
        Intent { nodes: [("n1".to_owned(), node)].into(), ..Intent::default() }
    }

    fn kept() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/intent.json");
        write(&path, &intent(), UNIX_EPOCH + Duration::from_millis(1_234)).unwrap();
        (dir, path)
    }

    #[test]
    fn what_is_written_is_read_back_with_its_time() {
        let (_dir, path) = kept();
        assert_eq!(read(&path).unwrap(), Some((intent(), UNIX_EPOCH + Duration::from_millis(1_234))));
        let (body, text) = (serde_json::to_string(&intent()).unwrap(), fs::read_to_string(&path).unwrap());
        let head = format!(
            r#"{{"bascule":"intent","version":1,"unixMs":1234,"checksum":"{:016x}"}}"#,
            checksum(body.as_bytes())
        );
        assert_eq!(text, format!("{head}\n{body}\n"));
        write(&path, &Intent::default(), UNIX_EPOCH).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().0, Intent::default());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        assert!(read(&path.with_file_name("none")).unwrap().is_none());
    }

    #[test]
    fn no_damage_is_taken_for_an_intent() {
        let (_dir, path) = kept();
        let good = fs::read(&path).unwrap();
        for cut in 0..good.len() - 1 {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(read(&path).is_err(), "cut at {cut}");
        }
        let body = good.iter().position(|b| *b == b'\n').unwrap() + 1;
        for at in body..good.len() - 1 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(read(&path).is_err(), "bit flipped at {at}");
        }
        let text = String::from_utf8(good).unwrap();
        fs::write(&path, text.replace("\"version\":1", "\"version\":2")).unwrap();
        assert!(matches!(read(&path), Err(FileError::Version { found: 2, .. })));
        fs::write(&path, text.replace("\"intent\"", "\"state\"")).unwrap();
        assert!(matches!(read(&path), Err(FileError::Damaged { .. })));
        let aside = keep_aside(&path).unwrap();
        assert!(aside.ends_with("intent.json.damaged") && aside.exists() && !path.exists());
    }

    #[test]
    fn another_writer_need_not_know_the_sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("intent.json");
        let body = serde_json::to_string(&intent()).unwrap();
        fs::write(&path, format!("{{\"bascule\":\"intent\",\"version\":1,\"unixMs\":0}}\n{body}")).unwrap();
        assert_eq!(read(&path).unwrap(), Some((intent(), UNIX_EPOCH)));
    }
}
