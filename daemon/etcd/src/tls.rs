//! From PEM files to a TLS configuration.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, ClientConfig, RootCertStore};

use crate::TlsFiles;

/// What is in the files.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Pem {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pem {
    /// Says which file cannot be read.
    pub(crate) async fn read(files: &TlsFiles) -> Result<Self, String> {
        let (ca, certificate, key) = tokio::join!(read(&files.ca), read(&files.certificate), read(&files.key));
        Ok(Self { ca: ca?, certificate: certificate?, key: key? })
    }

    /// Says which file is no good.
    pub(crate) fn config(&self, files: &TlsFiles) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        for ca in certificates(&self.ca, &files.ca)? {
            roots.add(ca).map_err(|e| said(&files.ca, &e))?;
        }
        let chain = certificates(&self.certificate, &files.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|e| said(&files.key, &e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?.with_root_certificates(roots);
        let mut config = builder.with_client_auth_cert(chain, key).map_err(|e| said(&files.certificate, &e))?;
        // Each connection proves both sides anew: a resumed session would go on with what was replaced.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Does the other side refuse our certificate? With TLS 1.3 it says so after our handshake is done (RFC 8446 4.4.2.4, 6.2), so that its alert
/// comes as the end of the HTTP/2 connection, of which only rustls's text is left.
pub(crate) fn is_denial(text: &str) -> bool {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        UnknownCA, UnsupportedCertificate,
    };
    let alerts = [
        AccessDenied,
        BadCertificate,
        CertificateExpired,
        CertificateRequired,
        CertificateRevoked,
        CertificateUnknown,
        UnknownCA,
        UnsupportedCertificate,
    ];
    alerts.into_iter().any(|alert| text.contains(&rustls::Error::AlertReceived(alert).to_string()))
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|e| said(path, &e))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| said(path, &e))?;
    if found.is_empty() { Err(said(path, &"there is no certificate in it")) } else { Ok(found) }
}

fn said(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
