//! What an API server needs before it starts: a CA, its certificate, the key of service accounts, the token of the first user.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::{LabError, Result};

/// Token of the user that may do everything, as `--token-auth-file` has it. The server listens inside the lab only.
pub(super) const ADMIN_TOKEN: &str = "lab-admin";

/// The files.
#[derive(Debug)]
pub(super) struct Pki {
    pub(super) ca: PathBuf,
    pub(super) servers: Vec<Leaf>,
    pub(super) accounts: PathBuf,
    pub(super) accounts_public: PathBuf,
    pub(super) tokens: PathBuf,
}

/// A server's certificate and its key.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl Pki {
    /// Makes them for `servers` servers, each with a certificate of its own, that are reached by these addresses.
    pub(super) fn create(directory: &Path, servers: usize, addresses: &[IpAddr]) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(LabError::io(directory.display().to_string()))?;
        let wrong = |error: rcgen::Error| LabError::answer("a certificate", error.to_string());
        let ca_key = KeyPair::generate().map_err(wrong)?;
        let mut ca = CertificateParams::new(Vec::new()).map_err(wrong)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).map_err(wrong)?;
        let issuer = Issuer::new(ca, ca_key);
        let accounts = KeyPair::generate().map_err(wrong)?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(LabError::io(path.display().to_string()))?;
            Ok::<_, LabError>(path)
        };
        let leaf = |number: usize| {
            let key = KeyPair::generate().map_err(wrong)?;
            let mut server = CertificateParams::new(vec!["kubernetes".to_owned()]).map_err(wrong)?;
            server.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
            let certificate = server.signed_by(&key, &issuer).map_err(wrong)?;
            Ok::<_, LabError>(Leaf {
                certificate: write(&format!("server-{number}.crt"), certificate.pem())?,
                key: write(&format!("server-{number}.key"), key.serialize_pem())?,
            })
        };
        Ok(Self {
            ca: write("ca.crt", ca_certificate.pem())?,
            servers: (1..=servers).map(leaf).collect::<Result<_>>()?,
            accounts: write("accounts.key", accounts.serialize_pem())?,
            accounts_public: write("accounts.pub", accounts.public_key_pem())?,
            tokens: write("tokens.csv", format!("{ADMIN_TOKEN},lab,lab,system:masters\n"))?,
        })
    }
}
