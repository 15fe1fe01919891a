//! Whom we believe to be who they say they are: certificate authorities.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// The usual authorities, or those alone that the user named.
#[derive(Clone, Default)]
pub(crate) struct Trust {
    named: Vec<CertificateDer<'static>>,
    /// Made when it is needed first: reading the system's store takes a while.
    tls: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Trust {
    /// The authorities of a PEM file and no others; the usual ones if there is no file.
    pub(crate) fn of(file: Option<&Path>) -> Result<Self, TrustError> {
        let Some(path) = file else { return Ok(Self::default()) };
        let failed = |cause| TrustError { path: path.display().to_string(), cause };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(error.to_string()))?;
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(|error| failed(error.to_string()))?;
        }
        if store.is_empty() {
            return Err(failed("there is no certificate in it".to_owned()));
        }
        Ok(Self { named: certificates, tls: Arc::default() })
    }

    /// How to open TLS connections.
    pub(crate) fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(self.tls.get_or_init(|| {
            let mut store = RootCertStore::empty();
            if self.named.is_empty() {
                // The machine's, and those that browsers know where the machine has none.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            store.add_parsable_certificates(self.named.iter().cloned());
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider)
                .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12]);
            let Ok(builder) = builder else { unreachable!("ring has both versions of TLS") };
            let mut config = builder.with_root_certificates(store).with_no_client_auth();
            // RFC 7443.
            config.alpn_protocols = vec![b"stun.turn".to_vec()];
            Arc::new(config)
        }))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("named", &self.named.len()).finish_non_exhaustive()
    }
}

/// A file of certificates that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("certificates in {path}: {cause}")]
pub(crate) struct TrustError {
    path: String,
    cause: String,
}
