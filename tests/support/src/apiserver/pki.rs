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
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
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
    /// Makes them for a server that is reached by these addresses.
    pub(super) fn create(directory: &Path, addresses: &[IpAddr]) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(LabError::io(directory.display().to_string()))?;
        let wrong = |error: rcgen::Error| LabError::answer("a certificate", error.to_string());
        let ca_key = KeyPair::generate().map_err(wrong)?;
        let mut ca = CertificateParams::new(Vec::new()).map_err(wrong)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).map_err(wrong)?;
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().map_err(wrong)?;
        let mut server = CertificateParams::new(vec!["kubernetes".to_owned()]).map_err(wrong)?;
        server.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let certificate = server.signed_by(&key, &issuer).map_err(wrong)?;
        let accounts = KeyPair::generate().map_err(wrong)?;
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            std::fs::write(&path, text).map_err(LabError::io(path.display().to_string()))?;
            Ok::<_, LabError>(path)
        };
        Ok(Self {
            ca: write("ca.crt", ca_certificate.pem())?,
            certificate: write("server.crt", certificate.pem())?,
            key: write("server.key", key.serialize_pem())?,
            accounts: write("accounts.key", accounts.serialize_pem())?,
            accounts_public: write("accounts.pub", accounts.public_key_pem())?,
            audit_policy: write("audit-policy.json", AUDIT_POLICY.to_owned())?,
            audit_log: directory.join("audit.log"),
            tokens: write("tokens.csv", format!("{ADMIN_TOKEN},lab,lab,system:masters\n"))?,
        })
    }
}
