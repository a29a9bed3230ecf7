//! TLS between relays: 1.3 only, both sides with a certificate, no resumption of any kind.
//!
//! A resumed session would vouch for a certificate that its peer no longer shows (dependencies.md 6.3), so there are no tickets and no
//! caches. Files are read again by [`Credentials::read`]; what is in force is replaced as a whole.

mod refusal;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bascule_core::site::SiteId;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use refusal::Refusal;

use crate::clock::Clock;
use crate::pki::{Identity, IdentityError, RELAY_CERTIFICATE, RELAY_KEY, REVOKED, TRUST};

/// Both ends name it in the handshake: nothing else is spoken on the port.
const PROTOCOL: &[u8] = b"bascule-state/2";
/// A key that others than owner and group can read is not used.
const OTHERS: u32 = 0o007;
/// Larger than any file of a relay: a thousand revoked certificates take 40 kB.
const LARGEST: u64 = 4 * 1024 * 1024;

/// Why the files of a relay are not taken. What was in force before stays so.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {why}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A key lies open.
    #[error("{}: mode {mode:o} lets everybody read the key", path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate is for nobody.
    #[error("{}: {source}", path.display())]
    Identity {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// Peers would refuse our certificate.
    #[error("{}: peers would refuse it: {refusal}", path.display())]
    Own {
        /// Which file.
        path: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// Files that do not belong together: key and certificate, lists and authorities.
    #[error("{}: {source}", dir.display())]
    Set {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The clock that certificates are held against.
#[derive(Clone, Debug)]
pub(crate) struct Wall(pub(crate) Arc<dyn Clock>);

impl TimeProvider for Wall {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.unix()))
    }
}

/// What this relay shows and whom it believes.
pub struct Credentials {
    /// Who we are.
    pub identity: Identity,
    /// Our certificate is not valid after, since 1970.
    pub expires: Duration,
    files: Files,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).field("expires", &self.expires).finish()
    }
}

/// A directory as it was read.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    trust: Vec<u8>,
    revoked: Vec<u8>,
}

impl Files {
    /// Reads a directory.
    ///
    /// # Errors
    /// [`TlsError`] when a file is missing (but the revocation lists), unreadable or open to all.
    pub(crate) fn read(dir: &Path) -> Result<Self, TlsError> {
        let file = |name: &str| {
            let path = dir.join(name);
            let read = || -> io::Result<(Vec<u8>, u32)> {
                let about = fs::metadata(&path)?;
                if about.len() > LARGEST {
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than any file of a relay"));
                }
                Ok((fs::read(&path)?, about.permissions().mode()))
            };
            read().map_err(|source| TlsError::File { path: path.clone(), source })
        };
        let (key, mode) = file(RELAY_KEY)?;
        if mode & OTHERS != 0 {
            return Err(TlsError::Mode { path: dir.join(RELAY_KEY), mode: mode & 0o7777 });
        }
        let revoked = match file(REVOKED) {
            Err(TlsError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?.0,
        };
        Ok(Self { certificate: file(RELAY_CERTIFICATE)?.0, key, trust: file(TRUST)?.0, revoked })
    }
}

impl Credentials {
    /// What the files of a directory say.
    ///
    /// # Errors
    /// [`TlsError`] when they are not a whole set that peers with the same authorities would accept now.
    pub fn read(dir: &Path, clock: &Arc<dyn Clock>) -> Result<Self, TlsError> {
        Self::new(Files::read(dir)?, dir, clock)
    }

    pub(crate) fn new(files: Files, dir: &Path, clock: &Arc<dyn Clock>) -> Result<Self, TlsError> {
        let content = |name: &str, why: String| TlsError::Content { path: dir.join(name), why };
        let set = |source: rustls::Error| TlsError::Set { dir: dir.to_owned(), source };
        let certificates = |name: &str, bytes: &[u8]| -> Result<Vec<CertificateDer<'static>>, TlsError> {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
            let all = all.map_err(|error| content(name, error.to_string()))?;
            if all.is_empty() { Err(content(name, "no certificate".to_owned())) } else { Ok(all) }
        };
        let chain = certificates(RELAY_CERTIFICATE, &files.certificate)?;
        let mut roots = RootCertStore::empty();
        for root in certificates(TRUST, &files.trust)? {
            roots.add(root).map_err(|error| content(TRUST, error.to_string()))?;
        }
        let roots = Arc::new(roots);
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&files.revoked).collect();
        let lists = lists.map_err(|error| content(REVOKED, error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| content(RELAY_KEY, error.to_string()))?;
        let own_path = || dir.join(RELAY_CERTIFICATE);
        let identity = Identity::of(&chain[0]).map_err(|source| TlsError::Identity { path: own_path(), source })?;
        let expires = not_after(&chain[0]).unwrap_or_default();

        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let wall: Arc<dyn TimeProvider> = Arc::new(Wall(Arc::clone(clock)));
        let bad = |error: rustls::server::VerifierBuilderError| content(REVOKED, error.to_string());
        // A list of one authority says nothing about certificates of another: unknown is not revoked.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .with_crls(lists.clone())
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(bad)?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .with_crls(lists)
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()
            .map_err(bad)?;

        let builder = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&wall));
        let mut server = builder
            .with_protocol_versions(&[&TLS13])
            .map_err(set)?
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(set)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        let builder = ClientConfig::builder_with_details(provider, wall);
        let mut client = builder
            .with_protocol_versions(&[&TLS13])
            .map_err(set)?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(chain.clone(), key)
            .map_err(set)?;
        client.resumption = Resumption::disabled();
        client.alpn_protocols = vec![PROTOCOL.to_vec()];

        let new = Self { identity, expires, files, client: Arc::new(client), server: Arc::new(server), verifier };
        new.believes(&chain, clock.unix()).map_err(|refusal| TlsError::Own { path: own_path(), refusal })?;
        Ok(new)
    }

    /// For connections that we make.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// For connections that are made to us.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The name that a relay of a site must have in its certificate.
    pub fn server_name(&self, site: SiteId) -> ServerName<'static> {
        let name = Identity::server_name(&self.identity.domain, site);
        ServerName::try_from(name).expect("a domain of an identity is a DNS name, and so is a label before it")
    }

    /// Would the chain of a peer be accepted at this time? And whose is it?
    ///
    /// # Errors
    /// [`Refusal`] says why not.
    pub fn believes(&self, chain: &[CertificateDer<'_>], at: Duration) -> Result<Identity, Refusal> {
        let (leaf, others) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let verified = self.verifier.verify_client_cert(leaf, others, UnixTime::since_unix_epoch(at));
        let _ours = verified.map_err(|error| Refusal::of(&error))?;
        self.identity_of(chain)
    }

    /// Whose a chain is that was verified in a handshake.
    pub(crate) fn identity_of(&self, chain: &[CertificateDer<'_>]) -> Result<Identity, Refusal> {
        let identity = Identity::of(chain.first().ok_or(Refusal::NoCertificate)?).map_err(|_| Refusal::WrongName)?;
        if identity.domain == self.identity.domain { Ok(identity) } else { Err(Refusal::WrongName) }
    }

    /// Do the files say the same as those that this was made of?
    pub(crate) fn made_of(&self, files: &Files) -> bool {
        self.files == *files
    }

    /// Is what we show the same?
    pub(crate) fn shows_as(&self, other: &Self) -> bool {
        self.files.certificate == other.files.certificate
    }
}

/// When a certificate ends, since 1970.
pub(crate) fn not_after(der: &CertificateDer<'_>) -> Option<Duration> {
    use x509_parser::prelude::{FromDer as _, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    u64::try_from(certificate.validity().not_after.timestamp()).ok().map(Duration::from_secs)
}
