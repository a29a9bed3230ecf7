//! The unix socket: root only, one live daemon per path, a dead one's socket replaced.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net as blocking;
use std::path::{Path, PathBuf};

use axum::serve::Listener;
use nix::unistd::geteuid;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream, unix};
use tracing::warn;

/// Why the admin interface cannot listen.
#[derive(Debug, Error)]
pub enum BindError {
    /// A daemon that lives answers there.
    #[error("another daemon answers on {}: stop it, or give this one its own admin.socket", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands in the way; it is not ours to remove.
    #[error("{} exists and is no socket: remove it, or choose another admin.socket", path.display())]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("cannot listen on {}: {what}: {source}", path.display())]
    Path {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's words.
        source: io::Error,
    },
    /// The TCP address is taken or foreign.
    #[error("cannot listen on admin.http {address}: {source}")]
    Http {
        /// As configured.
        address: SocketAddr,
        /// The kernel's words.
        source: io::Error,
    },
}

/// A bound unix socket; removed when dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the daemon lives. The kernel releases it with the process, so it cannot go stale.
    _turn: File,
}

impl AdminSocket {
    /// Listens on `path`, mode 0600. Missing parents are made with mode 0755.
    ///
    /// The socket is made under another name and renamed into place: there is no moment at which it exists with a wider mode, and
    /// none at which a client finds nothing during a replacement.
    ///
    /// # Errors
    /// [`BindError`]; a socket that somebody listens on is never touched.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |what| move |source| BindError::Path { path: path.to_owned(), what, source };
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed("create the folder"))?;
        }
        let turn = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(beside(path, ".lock"))
            .map_err(failed("open the lock file"))?;
        match turn.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(BindError::InUse { path: path.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        refuse_foreign(path)?;

        let fresh = beside(path, ".new");
        match fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove a leftover")(e)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed("bind"))?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed("set mode 0600"))?;
        fs::rename(&fresh, path).map_err(failed("rename into place"))?;
        Ok(Self { listener, path: path.to_owned(), _turn: turn })
    }
}

/// A socket without a listener is a dead daemon's, and ours to replace. Anything else is not.
fn refuse_foreign(path: &Path) -> Result<(), BindError> {
    match blocking::UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(_) => {
            use std::os::unix::fs::FileTypeExt;
            let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
            if is_socket { Ok(()) } else { Err(BindError::NoSocket { path: path.to_owned() }) }
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Listener for AdminSocket {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    /// The mode keeps others out; the peer's credentials are looked at as well, because a path can be opened up by accident.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => return (stream, address),
                Ok(peer) => warn!(uid = peer.uid(), "admin socket: refused a user who is not root"),
                Err(error) => warn!(%error, "admin socket: refused a peer without credentials"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // The lock is still held: nobody else can have put a socket there. The lock file stays, so that two starts never lock two files.
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(%error, path = %self.path.display(), "the admin socket could not be removed");
        }
    }
}
