//! TLS of probes: whose certificate is accepted, and nothing else that is special.

use std::path::Path;
use std::sync::Arc;

use bascule_core::health::{ClientCertificate, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Certificates with their key.
type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A TLS session over `stream` with the server `host`, which is shown `client` when it asks.
pub(super) async fn handshake(
    stream: TcpStream,
    host: &str,
    trust: &Trust,
    client: Option<&ClientCertificate>,
) -> Result<TlsStream<TcpStream>, String> {
    let name = match trust {
        Trust::Authorities { name: Some(name), .. } => name,
        Trust::Authorities { name: None, .. } | Trust::Anybody => host,
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|e| format!("tls: {name}: {e}"))?;
    let identity = match client {
        Some(files) => Some(identity(files).await.map_err(|e| format!("tls: {e}"))?),
        None => None,
    };
    let config = config(trust, identity).map_err(|e| format!("tls: {e}"))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|e| format!("tls: {e}"))
}

/// Reads both files: whoever made them may have renewed them since the last probe.
async fn identity(ClientCertificate { certificate, key }: &ClientCertificate) -> Result<Identity, String> {
    let wrong = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let pem = tokio::fs::read(certificate).await.map_err(|e| wrong(certificate, &e))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.map_err(|e| wrong(certificate, &e))?;
    let pem = tokio::fs::read(key).await.map_err(|e| wrong(key, &e))?;
    Ok((chain, PrivateKeyDer::from_pem_slice(&pem).map_err(|e| wrong(key, &e))?))
}

/// Every probe is a full handshake: a resumed session would vouch for a certificate that the server no longer shows.
fn config(trust: &Trust, identity: Option<Identity>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anybody => Arc::new(Anybody(provider.clone())),
        Trust::Authorities { pem, .. } => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|e| e.to_string())?
        }
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| e.to_string())?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts every certificate; the server still has to hold its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
