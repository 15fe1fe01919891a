//! A certificate as the relay wants it, and clients that trust it.

use std::fs;
use std::sync::Arc;

use rcgen::generate_simple_self_signed;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, SupportedProtocolVersion,
    version,
};
use tempfile::TempDir;

/// In two files, for as long as it lives.
pub(crate) struct Certificate {
    folder: Arc<TempDir>,
    name: String,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub(crate) fn make(name: &str) -> Self {
        Self::write(Arc::new(TempDir::new().unwrap()), name)
    }

    /// Another in its place.
    pub(crate) fn replace(&self) -> Self {
        Self::write(Arc::clone(&self.folder), &self.name)
    }

    pub(crate) fn replace_by_nonsense(&self) {
        fs::write(self.folder.path().join("cert.pem"), "nonsense").unwrap();
    }

    fn write(folder: Arc<TempDir>, name: &str) -> Self {
        let made = generate_simple_self_signed([name.to_owned()]).unwrap();
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        Self { folder, name: name.to_owned(), der: made.cert.der().clone() }
    }

    pub(crate) fn flags(&self) -> [String; 2] {
        let path = |name| self.folder.path().join(name).display().to_string();
        [format!("--tls-cert={}", path("cert.pem")), format!("--tls-key={}", path("key.pem"))]
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.der.to_vec()
    }

    /// Trusts this one alone.
    pub(crate) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        protocol: Option<&str>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocol.map(|protocol| protocol.as_bytes().to_vec()).into_iter().collect();
        Arc::new(config)
    }

    /// Trusts everybody, to see whom it is shown.
    pub(crate) fn client_without_checks(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        Arc::new(config)
    }
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
