//! The authority: signs, revokes, is replaced.

use std::fmt;
use std::path::{Path, PathBuf};

use bascule_core::site::SiteId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, string::Ia5String,
};
use x509_parser::prelude::{ASN1Time, FromDer as _, Pem, X509Certificate};

use super::files::{self, OPEN, SECRET};
use super::identity::checked_domain;
use super::ledger::{Issued, Ledger};
use super::{Identity, PkiError, RELAY_CERTIFICATE, RELAY_KEY, RELAY_REQUEST, REVOKED, TRUST};

const LEDGER: &str = "issued.json";
/// Certificates are valid from so long ago: clocks differ.
const BACKDATED: u64 = 3600;
const DAY: u64 = 86_400;
/// A revocation list says when the next one comes. Nobody holds us to it: relays keep the last list they have.
const LIST: u64 = 365 * DAY;

/// Where the replacement of the authority stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Roll {
    /// There is one authority.
    Settled,
    /// The next one is trusted and signs nothing yet.
    Begun,
    /// The new one signs; the former one is still trusted.
    Switched,
}

impl fmt::Display for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settled => "not being replaced",
            Self::Begun => "being replaced: the next one is trusted and signs nothing yet",
            Self::Switched => "being replaced: the new one signs, the former one is still trusted",
        })
    }
}

/// An authority, in its directory.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    ledger: Ledger,
}

fn time(unix: u64) -> x509_parser::time::ASN1Time {
    let seconds = i64::try_from(unix).unwrap_or(i64::MAX);
    // The year 9999 is the last that a certificate can name.
    ASN1Time::from_timestamp(seconds).unwrap_or_else(|_| ASN1Time::now())
}

fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    rustls::crypto::ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| PkiError::Certificate(rcgen::Error::RingUnspecified))?;
    // Positive, and of full length (RFC 5280 section 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Authority {
    /// A new authority for a mesh, valid for `days`.
    ///
    /// # Errors
    /// [`PkiError`]; nothing is written over.
    pub fn init(dir: &Path, domain: &str, days: u64, now: u64) -> Result<Self, PkiError> {
        let ledger = Ledger { domain: checked_domain(domain)?, lists: 1, issued: Vec::new() };
        let new = Self { dir: dir.to_owned(), ledger };
        if new.path("ca.pem").exists() || new.path("ca.key").exists() {
            return Err(PkiError::Exists { path: new.path("ca.pem") });
        }
        files::make_dir(dir)?;
        new.create("ca", days, now)?;
        new.save()?;
        Ok(new)
    }

    /// The authority of a directory.
    ///
    /// # Errors
    /// [`PkiError`] when there is none.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let path = dir.join(LEDGER);
        let ledger = serde_json::from_str(&files::read(&path)?)
            .map_err(|error| PkiError::Content { path, why: error.to_string() })?;
        Ok(Self { dir: dir.to_owned(), ledger })
    }

    /// The mesh.
    pub fn domain(&self) -> &str {
        &self.ledger.domain
    }

    /// What was handed out, oldest first.
    pub fn issued(&self) -> &[Issued] {
        &self.ledger.issued
    }

    /// Authorities that are trusted: subject, and not valid after, in seconds since 1970.
    ///
    /// # Errors
    /// [`PkiError`] when a file is missing or unreadable.
    pub fn authorities(&self) -> Result<Vec<(String, u64)>, PkiError> {
        self.trusted().into_iter().map(|name| self.read(name)).collect()
    }

    /// Where its replacement stands.
    pub fn roll(&self) -> Roll {
        match (self.path("next.pem").exists(), self.path("former.pem").exists()) {
            (true, _) => Roll::Begun,
            (false, true) => Roll::Switched,
            (false, false) => Roll::Settled,
        }
    }

    /// Makes key and certificate of a relay, valid for `days`, and puts all that it needs into `into`. The key leaves this machine with it:
    /// [`request`] and [`Self::sign`] are the way on which it does not.
    ///
    /// # Errors
    /// [`PkiError`]
    pub fn issue(&mut self, who: (SiteId, &str), days: u64, now: u64, into: &Path) -> Result<Issued, PkiError> {
        let identity = Identity::new(self.domain(), who.0, who.1)?;
        let (key, issuer) = (KeyPair::generate()?, self.issuer("ca")?);
        let params = leaf(&identity, days, now)?;
        let certificate = params.signed_by(&key, &issuer)?;
        files::make_dir(into)?;
        files::write(&into.join(RELAY_KEY), &key.serialize_pem(), SECRET)?;
        self.hand_out(&identity, &params, &certificate.pem(), into)
    }

    /// Signs the request of a relay, and puts certificate and trust into `into`. Who it is for is said here, not in the request.
    ///
    /// # Errors
    /// [`PkiError`]
    pub fn sign(
        &mut self,
        request: &str,
        who: (SiteId, &str),
        days: u64,
        now: u64,
        into: &Path,
    ) -> Result<Issued, PkiError> {
        let identity = Identity::new(self.domain(), who.0, who.1)?;
        let bad = |error: rcgen::Error| PkiError::Request { why: error.to_string() };
        let mut request = CertificateSigningRequestParams::from_pem(request).map_err(bad)?;
        // Nothing of what it asks for is taken over, but the key, of which it proves that it has it.
        request.params = leaf(&identity, days, now)?;
        let certificate = request.signed_by(&self.issuer("ca")?)?;
        files::make_dir(into)?;
        self.hand_out(&identity, &request.params, &certificate.pem(), into)
    }

    /// Revokes a certificate by its number. Relays know once they have the new `revoked.pem` ([`Self::export`]).
    ///
    /// # Errors
    /// [`PkiError::Unknown`] when it was not issued here.
    pub fn revoke(&mut self, serial: &str, now: u64) -> Result<Issued, PkiError> {
        let unknown = || PkiError::Unknown { serial: serial.to_owned() };
        let found = self.ledger.issued.iter_mut().find(|one| one.serial == serial).ok_or_else(unknown)?;
        found.revoked = Some(found.revoked.unwrap_or(now));
        let found = found.clone();
        self.ledger.lists += 1;
        self.save()?;
        Ok(found)
    }

    /// Puts `trust.pem` and `revoked.pem` into `into`, as they are now: what every relay needs after `revoke` and each step of `roll`.
    ///
    /// # Errors
    /// [`PkiError`]
    pub fn export(&self, now: u64, into: &Path) -> Result<(), PkiError> {
        files::make_dir(into)?;
        let mut lists = String::new();
        for name in self.trusted() {
            lists += &self.list(name, now)?;
        }
        let all: Result<Vec<String>, PkiError> =
            self.trusted().into_iter().map(|name| files::read(&self.path(&format!("{name}.pem")))).collect();
        // Trust first: a relay that looks in between believes whom it must, and what a list says of a new authority is nothing yet.
        files::write(&into.join(TRUST), &all?.concat(), OPEN)?;
        files::write(&into.join(REVOKED), &lists, OPEN)
    }

    /// First step of a replacement: a new authority, trusted beside the one that signs.
    ///
    /// # Errors
    /// [`PkiError::Step`] out of order.
    pub fn roll_begin(&mut self, days: u64, now: u64) -> Result<(), PkiError> {
        self.expect(Roll::Settled, "begin")?;
        self.create("next", days, now)
    }

    /// Second step, once every relay has the new `trust.pem`: the new authority signs.
    ///
    /// # Errors
    /// [`PkiError::Step`] out of order.
    pub fn roll_switch(&mut self) -> Result<(), PkiError> {
        self.expect(Roll::Begun, "switch")?;
        for (from, to) in [("ca", "former"), ("next", "ca")] {
            for end in ["key", "pem"] {
                files::rename(&self.path(&format!("{from}.{end}")), &self.path(&format!("{to}.{end}")))?;
            }
        }
        Ok(())
    }

    /// Third step, once every relay has a certificate of the new authority: the former one is forgotten.
    ///
    /// # Errors
    /// [`PkiError::Step`] out of order, [`PkiError::InUse`] when a relay has no newer certificate.
    pub fn roll_finish(&mut self, now: u64) -> Result<(), PkiError> {
        self.expect(Roll::Switched, "finish")?;
        let (former, _) = self.read("former")?;
        let in_use = self.ledger.in_use(&former, now);
        if let Some(first) = in_use.first() {
            let first = format!("{} of site {} relay {}", first.serial, first.site, first.relay);
            return Err(PkiError::InUse { count: in_use.len(), first });
        }
        files::remove(&self.path("former.key"))?;
        files::remove(&self.path("former.pem"))
    }

    fn expect(&self, wanted: Roll, asked: &'static str) -> Result<(), PkiError> {
        let now = self.roll();
        if now == wanted { Ok(()) } else { Err(PkiError::Step { now, asked }) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn trusted(&self) -> Vec<&'static str> {
        ["ca", "next", "former"].into_iter().filter(|name| self.path(&format!("{name}.pem")).exists()).collect()
    }

    fn save(&self) -> Result<(), PkiError> {
        let text = serde_json::to_string_pretty(&self.ledger).unwrap_or_default();
        files::write(&self.path(LEDGER), &text, OPEN)
    }

    fn create(&self, name: &str, days: u64, now: u64) -> Result<(), PkiError> {
        let (key, number) = (KeyPair::generate()?, serial()?);
        let mut params = CertificateParams::default();
        // Each authority has a name of its own: revocation lists are found by it.
        let subject = format!("bascule {} {}", self.domain(), &hexadecimal(&number.to_bytes())[..8]);
        params.distinguished_name.push(DnType::CommonName, subject);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, days, now);
        params.serial_number = Some(number);
        let certificate = params.self_signed(&key)?;
        files::write(&self.path(&format!("{name}.key")), &key.serialize_pem(), SECRET)?;
        files::write(&self.path(&format!("{name}.pem")), &certificate.pem(), OPEN)
    }

    fn issuer(&self, name: &str) -> Result<Issuer<'static, KeyPair>, PkiError> {
        let key = KeyPair::from_pem(&files::read(&self.path(&format!("{name}.key")))?)?;
        Ok(Issuer::from_ca_cert_pem(&files::read(&self.path(&format!("{name}.pem")))?, key)?)
    }

    /// Subject and end of an authority.
    fn read(&self, name: &str) -> Result<(String, u64), PkiError> {
        let path = self.path(&format!("{name}.pem"));
        let text = files::read(&path)?;
        let content = |why: String| PkiError::Content { path: path.clone(), why };
        let pem = Pem::iter_from_buffer(text.as_bytes()).next().ok_or_else(|| content("no certificate".to_owned()))?;
        let pem = pem.map_err(|error| content(error.to_string()))?;
        let (_, found) = X509Certificate::from_der(&pem.contents).map_err(|error| content(error.to_string()))?;
        Ok((found.subject().to_string(), u64::try_from(found.validity().not_after.timestamp()).unwrap_or(0)))
    }

    fn list(&self, name: &str, now: u64) -> Result<String, PkiError> {
        let (authority, _) = self.read(name)?;
        let number = |serial: &str| -> Vec<u8> {
            let pair = |i: usize| u8::from_str_radix(serial.get(i..i + 2).unwrap_or_default(), 16).unwrap_or(0);
            (0..serial.len()).step_by(2).map(pair).collect()
        };
        let revoked = self.ledger.issued.iter().filter(|one| one.authority == authority);
        let revoked_certs = revoked
            .filter_map(|one| Some((one, one.revoked?)))
            .map(|(one, at)| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&number(&one.serial)),
                revocation_time: time(at).to_datetime(),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: time(now).to_datetime(),
            next_update: time(now + LIST).to_datetime(),
            crl_number: SerialNumber::from(self.ledger.lists),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer(name)?)?.pem()?)
    }

    fn hand_out(
        &mut self,
        identity: &Identity,
        params: &CertificateParams,
        pem: &str,
        into: &Path,
    ) -> Result<Issued, PkiError> {
        let (authority, _) = self.read("ca")?;
        let serial = params.serial_number.as_ref().map(SerialNumber::to_bytes).unwrap_or_default();
        let not_after = u64::try_from(params.not_after.unix_timestamp()).unwrap_or(0);
        let (site, relay) = (identity.site.0, identity.relay.clone());
        let issued = Issued { serial: hexadecimal(&serial), authority, site, relay, not_after, revoked: None };
        self.ledger.issued.push(issued.clone());
        // The ledger first: a certificate that is not in it could not be revoked.
        self.save()?;
        files::write(&into.join(RELAY_CERTIFICATE), pem, OPEN)?;
        self.export(u64::try_from(params.not_before.unix_timestamp()).unwrap_or(0) + BACKDATED, into)?;
        Ok(issued)
    }
}

/// What a relay makes for itself: a key that never leaves `dir`, and a request for [`Authority::sign`].
///
/// # Errors
/// [`PkiError`]; a key that is there is used and not written over.
pub fn request(dir: &Path) -> Result<String, PkiError> {
    files::make_dir(dir)?;
    let path = dir.join(RELAY_KEY);
    let key = if path.exists() {
        KeyPair::from_pem(&files::read(&path)?)?
    } else {
        let key = KeyPair::generate()?;
        files::write(&path, &key.serialize_pem(), SECRET)?;
        key
    };
    let text = CertificateParams::default().serialize_request(&key)?.pem()?;
    files::write(&dir.join(RELAY_REQUEST), &text, OPEN)?;
    Ok(text)
}

fn leaf(identity: &Identity, days: u64, now: u64) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let text = |text: String| Ia5String::try_from(text).map_err(PkiError::Certificate);
    let dns = Identity::server_name(&identity.domain, identity.site);
    params.subject_alt_names = vec![SanType::URI(text(identity.uri())?), SanType::DnsName(text(dns)?)];
    params.distinguished_name.push(DnType::CommonName, format!("site {} relay {}", identity.site.0, identity.relay));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial()?);
    validity(&mut params, days, now);
    Ok(params)
}

fn validity(params: &mut CertificateParams, days: u64, now: u64) {
    params.not_before = time(now.saturating_sub(BACKDATED)).to_datetime();
    params.not_after = time(now.saturating_add(days.saturating_mul(DAY))).to_datetime();
}
