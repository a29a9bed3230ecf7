//! A CA of the lab and what it signs.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};

use crate::{LabError, Result};

/// A CA, its certificate in a file.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate.
    pub ca: PathBuf,
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one that keeps its files in `directory`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn create(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(LabError::io(directory.display().to_string()))?;
        let key = KeyPair::generate().map_err(wrong)?;
        let mut ca = CertificateParams::new(Vec::new()).map_err(wrong)?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = ca.self_signed(&key).map_err(wrong)?;
        let path = write(directory, "ca.crt", certificate.pem())?;
        Ok(Self { ca: path, directory: directory.to_owned(), issuer: Issuer::new(ca, key) })
    }

    /// Signs a certificate for `name`, its common name and one of its names, and for these addresses, into `FILE.crt` and `FILE.key`. It
    /// is good for servers and clients.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn sign(&self, file: &str, name: &str, addresses: &[IpAddr]) -> Result<Pair> {
        self.sign_until(file, name, addresses, None)
    }

    /// Like [`Authority::sign`], of a certificate that was good until the end of 2001.
    ///
    /// # Errors
    /// Those of [`Authority::sign`].
    pub fn sign_expired(&self, file: &str, name: &str, addresses: &[IpAddr]) -> Result<Pair> {
        self.sign_until(file, name, addresses, Some(2001))
    }

    fn sign_until(&self, file: &str, name: &str, addresses: &[IpAddr], year: Option<i32>) -> Result<Pair> {
        let key = KeyPair::generate().map_err(wrong)?;
        let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(wrong)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        if let Some(year) = year {
            params.not_before = date_time_ymd(year, 1, 1);
            params.not_after = date_time_ymd(year, 12, 31);
        }
        let certificate = params.signed_by(&key, &self.issuer).map_err(wrong)?;
        Ok(Pair {
            certificate: self.write(&format!("{file}.crt"), certificate.pem())?,
            key: self.write(&format!("{file}.key"), key.serialize_pem())?,
        })
    }

    /// Another file beside its own.
    pub(crate) fn write(&self, name: &str, text: String) -> Result<PathBuf> {
        write(&self.directory, name, text)
    }
}

fn wrong(error: rcgen::Error) -> LabError {
    LabError::answer("a certificate", error.to_string())
}

fn write(directory: &Path, name: &str, text: String) -> Result<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, text).map_err(LabError::io(path.display().to_string()))?;
    Ok(path)
}
