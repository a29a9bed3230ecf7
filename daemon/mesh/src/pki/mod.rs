//! Certificates of relays: an authority that is a directory of files on a machine without a network, and what it hands out.
//!
//! ```text
//! authority/   ca.pem ca.key        signs
//!              next.pem next.key    will sign: between `roll begin` and `roll switch`
//!              former.pem former.key signed: between `roll switch` and `roll finish`
//!              issued.json          what was handed out, what was revoked
//! relay/       relay.pem relay.key  who it is
//!              trust.pem            authorities, one or two
//!              revoked.pem          revocation lists of these, if anything was ever revoked
//! ```
//!
//! A relay reads its directory again when the files change. To replace an authority: `begin`, hand `trust.pem` to all; `switch`, issue to all;
//! `finish`, hand `trust.pem` to all. Between the steps any relay may be ahead of any other.

mod authority;
mod files;
mod identity;
mod ledger;

use std::path::PathBuf;

pub use authority::{Authority, Roll, request};
pub(crate) use files::replace;
pub use files::{RELAY_CERTIFICATE, RELAY_KEY, RELAY_REQUEST, REVOKED, TRUST};
pub use identity::{Identity, IdentityError};
pub use ledger::Issued;

/// Why something was not done. Nothing was changed by what failed before its last file.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file system said no.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is there and must not be.
    #[error("{}: exists and is not written over", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{}: {why}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Not a name.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate library refused.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The request of a relay is not one.
    #[error("request: {why}")]
    Request {
        /// What is wrong.
        why: String,
    },
    /// The step does not come next.
    #[error("the authority is {now}; {asked} does not come next")]
    Step {
        /// Where the roll-over stands.
        now: Roll,
        /// What was asked for.
        asked: &'static str,
    },
    /// Nothing with this number was issued.
    #[error("no certificate with the number {serial} was issued here")]
    Unknown {
        /// The number, hexadecimal.
        serial: String,
    },
    /// Certificates that live count on the authority that is to be forgotten.
    #[error(
        "{count} certificates of the former authority are neither expired nor revoked nor replaced, the first is {first}"
    )]
    InUse {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
}
