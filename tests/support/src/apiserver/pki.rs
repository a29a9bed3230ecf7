//! What an API server needs before it starts: a CA, its certificate, the key of service accounts, the token of the first user.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;

use crate::pki::{Authority, Pair};
use crate::{LabError, Result};

/// Token of the user that may do everything, as `--token-auth-file` has it. The server listens inside the lab only.
pub(super) const ADMIN_TOKEN: &str = "lab-admin";

/// The files.
#[derive(Debug)]
pub(super) struct Pki {
    pub(super) ca: PathBuf,
    /// One for each server.
    pub(super) servers: Vec<Pair>,
    pub(super) accounts: PathBuf,
    pub(super) accounts_public: PathBuf,
    pub(super) tokens: PathBuf,
    pub(super) audit_policy: PathBuf,
    pub(super) audit_log: PathBuf,
}

/// Who asked for what, of service accounts alone: that is whom roles are written for.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]}"#;

impl Pki {
    /// Makes them for `servers` servers that are reached by these addresses.
    pub(super) fn create(directory: &Path, servers: usize, addresses: &[IpAddr]) -> Result<Self> {
        let authority = Authority::create(directory)?;
        let leaf = |number: usize| authority.sign(&format!("server-{number}"), "kubernetes", addresses);
        let servers = (1..=servers).map(leaf).collect::<Result<_>>()?;
        let accounts = KeyPair::generate().map_err(|e| LabError::answer("a key", e.to_string()))?;
        Ok(Self {
            accounts: authority.write("accounts.key", accounts.serialize_pem())?,
            accounts_public: authority.write("accounts.pub", accounts.public_key_pem())?,
            audit_policy: authority.write("audit-policy.json", AUDIT_POLICY.to_owned())?,
            audit_log: directory.join("audit.log"),
            tokens: authority.write("tokens.csv", format!("{ADMIN_TOKEN},lab,lab,system:masters\n"))?,
            ca: authority.ca,
            servers,
        })
    }
}
