//! What an API server needs before it starts: a CA, its certificate, the key of service accounts, the token of the first user.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;

use crate::pki::Authority;
use crate::{LabError, Result};

/// Token of the user that may do everything, as `--token-auth-file` has it. The server listens inside the lab only.
pub(super) const ADMIN_TOKEN: &str = "lab-admin";

/// The files.
#[derive(Debug)]
pub(super) struct Pki {
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    pub(super) accounts: PathBuf,
    pub(super) accounts_public: PathBuf,
    pub(super) tokens: PathBuf,
}

impl Pki {
    /// Makes them for a server that is reached by these addresses.
    pub(super) fn create(directory: &Path, addresses: &[IpAddr]) -> Result<Self> {
        let authority = Authority::create(directory)?;
        let server = authority.sign("server", "kubernetes", addresses)?;
        let accounts = KeyPair::generate().map_err(|e| LabError::answer("a key", e.to_string()))?;
        Ok(Self {
            accounts: authority.write("accounts.key", accounts.serialize_pem())?,
            accounts_public: authority.write("accounts.pub", accounts.public_key_pem())?,
            tokens: authority.write("tokens.csv", format!("{ADMIN_TOKEN},lab,lab,system:masters\n"))?,
            ca: authority.ca,
            certificate: server.certificate,
            key: server.key,
        })
    }
}
