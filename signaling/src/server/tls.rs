//! TLS: certificates by server name, client certificates if asked for, and all of it read anew without a restart.
//!
//! The files are the truth: [`Tls::reload`] reads them all and changes either everything or nothing. A handshake
//! takes the configuration of its moment; connections that are open keep theirs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::live::Live;

/// Which files hold what a TLS server needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Certificate chains, each with its key. The first is for whoever asks for a name that none of them has.
    pub certificates: Vec<CertificateFiles>,
    /// Who may come in.
    pub clients: Clients,
}

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The server's own certificate first.
    pub chain: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clients {
    /// Nobody asks them.
    Anybody,
    /// Those that show one must have it from these authorities.
    Optional(PathBuf),
    /// Everybody must have one from these authorities.
    Required(PathBuf),
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct FileError {
    /// Which file.
    pub path: String,
    /// What is wrong with it.
    pub rule: String,
}

/// The configuration for handshakes that begin now.
pub struct Tls(Live<Current>);

struct Current {
    files: Files,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files for the first time.
    pub fn load(files: Files) -> Result<Self, FileError> {
        Ok(Self(Live::new(Current::read(files)?)))
    }

    /// Reads the files again. If one is bad, everything stays as it was.
    pub fn reload(&self) -> Result<(), FileError> {
        self.0.set(Current::read(self.0.get().files.clone())?);
        Ok(())
    }

    /// Takes over what another has, which files among it.
    pub(super) fn follow(&self, other: &Self) {
        self.0.set(other.0.get());
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.get().config.clone().into()
    }

    pub(super) fn state_of_files(&self) -> Vec<FileState> {
        self.0.get().files.all().map(file_state).collect()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.0.get().files).finish_non_exhaustive()
    }
}

impl Current {
    fn read(files: Files) -> Result<Self, FileError> {
        Ok(Self { config: Arc::new(files.read()?), files })
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &Path> {
        let authorities = match &self.clients {
            Clients::Anybody => None,
            Clients::Optional(path) | Clients::Required(path) => Some(path.as_path()),
        };
        let pairs = self.certificates.iter().flat_map(|pair| [pair.chain.as_path(), pair.key.as_path()]);
        pairs.chain(authorities)
    }

    fn read(&self) -> Result<ServerConfig, FileError> {
        let provider = Arc::new(ring::default_provider());
        let mut certificates = Vec::new();
        for files in &self.certificates {
            certificates.push(Named::read(files, &provider)?);
        }
        let versions = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(Path::new("TLS"), &error))?;
        let verified = match &self.clients {
            Clients::Anybody => versions.with_no_client_auth(),
            Clients::Optional(path) | Clients::Required(path) => {
                let roots = Arc::new(authorities(path)?);
                let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                if matches!(self.clients, Clients::Optional(_)) {
                    verifier = verifier.allow_unauthenticated();
                }
                versions.with_client_cert_verifier(verifier.build().map_err(|error| wrong(path, &error))?)
            }
        };
        let mut config = verified.with_cert_resolver(Arc::new(ByName(certificates)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Changes when the file does. What cannot be seen counts as not there.
pub(super) type FileState = Option<(SystemTime, u64)>;

pub(super) fn file_state(path: &Path) -> FileState {
    let about = std::fs::metadata(path).ok()?;
    Some((about.modified().ok()?, about.len()))
}

/// Certificates by the names in them.
#[derive(Debug)]
struct ByName(Vec<Named>);

#[derive(Debug)]
struct Named {
    /// As in the certificate: `example.org` or `*.example.org`.
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByName {
    /// The first with the name and a key that the client can check, then any that it can check, then the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_check = |named: &&Named| named.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let asked = hello.server_name().unwrap_or("");
        let named = self.0.iter().filter(|named| named.names.iter().any(|name| covers(name, asked)));
        let found = named.clone().find(can_check).or_else(|| named.clone().next());
        found
            .or_else(|| self.0.iter().find(can_check))
            .or_else(|| self.0.first())
            .map(|named| named.key.clone())
    }
}

impl Named {
    fn read(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, FileError> {
        let chain = certificates(&files.chain)?;
        let Some(first) = chain.first() else {
            return Err(wrong(&files.chain, &"holds no certificate in PEM"));
        };
        let names = webpki::EndEntityCert::try_from(first).map_err(|error| wrong(&files.chain, &error))?;
        let names = names.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let mismatch = matches!(error, rustls::Error::InconsistentKeys(_));
            let rule = if mismatch { "is not the key of the certificate".into() } else { error.to_string() };
            wrong(&files.key, &rule)
        })?;
        Ok(Self { names, key: Arc::new(key) })
    }
}

/// Whether a name in a certificate stands for the name that is asked for, RFC 9525: a wildcard is one label.
fn covers(name: &str, asked: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) => asked.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => name.eq_ignore_ascii_case(asked),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(path, &error))?;
    read.collect::<Result<_, _>>().map_err(|error| wrong(path, &error))
}

fn authorities(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| wrong(path, &error))?;
    }
    if roots.is_empty() {
        return Err(wrong(path, &"holds no certificate in PEM"));
    }
    Ok(roots)
}

fn wrong(path: &Path, rule: &dyn fmt::Display) -> FileError {
    FileError { path: path.display().to_string(), rule: rule.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_one_label() {
        assert!(covers("*.example.org", "a.example.org") && covers("Example.org", "eXample.org"));
        for (name, asked) in [
            ("*.example.org", "example.org"),
            ("*.example.org", "a.b.example.org"),
            ("example.org", "a.example.org"),
            ("example.org", ""),
        ] {
            assert!(!covers(name, asked), "{name} {asked}");
        }
    }

    #[test]
    fn a_bad_file_is_named_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let own = rcgen::generate_simple_self_signed(["a.example".into()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["b.example".into()]).unwrap();
        std::fs::write(path("chain"), own.cert.pem()).unwrap();
        std::fs::write(path("key"), own.signing_key.serialize_pem()).unwrap();
        let files = Files {
            certificates: vec![CertificateFiles { chain: path("chain"), key: path("key") }],
            clients: Clients::Anybody,
        };
        let tls = Tls::load(files.clone()).unwrap();
        let before = tls.0.get();
        for (content, rule) in [
            (other.signing_key.serialize_pem(), "is not the key of the certificate"),
            ("nonsense".into(), "key: "),
        ] {
            std::fs::write(path("key"), content).unwrap();
            let error = tls.reload().unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
            assert!(Arc::ptr_eq(&before, &tls.0.get()));
        }
        std::fs::write(path("key"), own.signing_key.serialize_pem()).unwrap();
        tls.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &tls.0.get()));
        let missing = Clients::Required(path("nowhere"));
        let error = Tls::load(Files { clients: missing, ..files }).unwrap_err();
        assert!(error.path.ends_with("nowhere"));
    }
}
