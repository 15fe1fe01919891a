//! Certificates of the TLS and DTLS listeners: read from PEM files, chosen by name, replaced while connections go on.
//!
//! A connection keeps what it began with; whoever comes later gets what is current. A replacement that cannot be used
//! changes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use std::{fmt, fs, io};

use dimpl::DtlsCertificate;
use rustls::client::verify_server_name;
use rustls::crypto::ring::{self, Ticketer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::dtls;

/// A certificate with its chain, and the key that belongs to it: two files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate first, then those that vouch for it.
    pub certificate: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Missing, or not for us.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate in it, or one that is broken.
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// No key in it, or one of a kind we do not know.
    #[error("{} holds no private key in PEM that can sign", .0.display())]
    NoKey(PathBuf),
    /// They do not match.
    #[error("{} is not the key of {}", .0.key.display(), .0.certificate.display())]
    NotAPair(KeyPair),
}

/// All certificates, shared by every worker and whoever replaces them.
#[derive(Debug, Clone)]
pub struct Certificates {
    current: Arc<Current>,
    tls: Arc<ServerConfig>,
}

impl Certificates {
    /// Reads all pairs, the default one first.
    pub fn load(files: &[KeyPair]) -> Result<Self, CertificateError> {
        let current = Arc::new(Current(RwLock::new(Arc::new(Loaded::read(files)?))));
        let tls = Arc::new(tls_config(Arc::clone(&current)));
        Ok(Self { current, tls })
    }

    /// Reads the files again. If any is bad all stay as they are.
    pub fn reload(&self) -> Result<(), CertificateError> {
        let files = self.current.get().files.clone();
        self.reload_from(&files)
    }

    /// Reads other files from now on. If any is bad all stay as they are.
    pub fn reload_from(&self, files: &[KeyPair]) -> Result<(), CertificateError> {
        self.current.set(Loaded::read(files)?);
        Ok(())
    }

    /// Reads the files again whenever they change and on SIGHUP, for as long as it is polled.
    pub async fn watch(&self) {
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut tried = self.current.get().versions.clone();
        loop {
            let is_asked = tokio::select! {
                _ = interval.tick() => false,
                () = next(&mut hangup) => true,
            };
            let current = self.current.get();
            let versions = versions(&current.files);
            if !is_asked && (versions == tried || versions == current.versions) {
                continue;
            }
            match self.reload() {
                Ok(()) => info!("Certificates reloaded"),
                Err(error) => warn!(%error, "New certificates cannot be used; the old ones stay"),
            }
            tried = versions;
        }
    }

    /// How TLS is spoken: once for all connections, since it holds the keys of session tickets.
    #[must_use]
    pub fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }

    /// What DTLS clients are shown: the first pair with an ECDSA key, if there is one.
    #[must_use]
    pub fn dtls(&self) -> Option<Arc<DtlsCertificate>> {
        self.current.get().dtls.clone()
    }
}

/// What is shown to whoever comes now. Locked when a handshake begins and when files change, never for a datagram.
struct Current(RwLock<Arc<Loaded>>);

impl Current {
    fn get(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, loaded: Loaded) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
    }
}

impl ResolvesServerCert for Current {
    /// The first pair for that name whose key the client understands; without such a name, the first it understands.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let loaded = self.get();
        let is_understood =
            |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let named =
            name.and_then(|name| loaded.keys.iter().filter(is_understood).find(|key| is_for(key, &name)));
        named.or_else(|| loaded.keys.iter().find(is_understood)).cloned()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Current").field(&self.get().files).finish()
    }
}

/// What was read, and from where.
struct Loaded {
    files: Vec<KeyPair>,
    /// Taken before the files were read, so that a later change is noticed.
    versions: Vec<FileVersion>,
    keys: Vec<Arc<CertifiedKey>>,
    dtls: Option<Arc<DtlsCertificate>>,
}

impl Loaded {
    fn read(files: &[KeyPair]) -> Result<Self, CertificateError> {
        let versions = versions(files);
        let mut loaded = Self { files: files.to_vec(), versions, keys: Vec::new(), dtls: None };
        for pair in files {
            let (chain, key) = (read_chain(&pair.certificate)?, read_key(&pair.key)?);
            let signing = ring::sign::any_supported_type(&key)
                .map_err(|_| CertificateError::NoKey(pair.key.clone()))?;
            if loaded.dtls.is_none() {
                let first = chain.first().map(|certificate| certificate.to_vec()).unwrap_or_default();
                loaded.dtls = dtls::certificate(first, key.secret_der().to_vec()).map(Arc::new);
            }
            let certified = CertifiedKey::new(chain, signing);
            certified.keys_match().map_err(|_| CertificateError::NotAPair(pair.clone()))?;
            loaded.keys.push(Arc::new(certified));
        }
        Ok(loaded)
    }
}

async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// When a file was written and how long it is: enough to notice another in its place.
type FileVersion = Option<(SystemTime, u64)>;

fn versions(files: &[KeyPair]) -> Vec<FileVersion> {
    let version = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().flat_map(|pair| [version(&pair.certificate), version(&pair.key)]).collect()
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let pem = read(path)?;
    let missing = || CertificateError::NoCertificate(path.to_owned());
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(|_| missing())?;
    let first = chain.first().ok_or_else(missing)?;
    ParsedCertificate::try_from(first).map_err(|_| missing())?;
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| CertificateError::NoKey(path.to_owned()))
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.cert.first().and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
    parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

fn tls_config(current: Arc<Current>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])
        .unwrap_or_else(|error| unreachable!("ring speaks both: {error}"));
    let mut config = builder.with_no_client_auth().with_cert_resolver(current);
    // RFC 7443. Whoever names no protocol is served, whoever names others alone is not.
    config.alpn_protocols = vec![b"stun.turn".to_vec(), b"stun.nat-discovery".to_vec()];
    // Resumption costs the server no memory, and one ticket is what a client uses.
    if let Ok(ticketer) = Ticketer::new() {
        config.ticketer = ticketer;
    }
    config.send_tls13_tickets = 1;
    config
}

/// Often enough for whoever waits for it, and a few `stat` calls each time.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
    use tempfile::TempDir;

    use super::*;

    fn write(folder: &TempDir, name: &str, made: &Made<rcgen::KeyPair>) -> KeyPair {
        let pair = KeyPair {
            certificate: folder.path().join(format!("{name}.pem")),
            key: folder.path().join(format!("{name}.key")),
        };
        fs::write(&pair.certificate, made.cert.pem()).unwrap();
        fs::write(&pair.key, made.signing_key.serialize_pem()).unwrap();
        pair
    }

    fn make(name: &str) -> Made<rcgen::KeyPair> {
        generate_simple_self_signed([name.to_owned()]).unwrap()
    }

    fn shown(certificates: &Certificates) -> Vec<u8> {
        certificates.current.get().keys[0].cert[0].to_vec()
    }

    #[test]
    fn a_reload_shows_the_new_one_and_a_bad_one_changes_nothing() {
        let folder = TempDir::new().unwrap();
        let (old, new) = (make("old.example"), make("new.example"));
        let pair = write(&folder, "pair", &old);
        let certificates = Certificates::load(std::slice::from_ref(&pair)).unwrap();
        assert_eq!(shown(&certificates), old.cert.der().to_vec());
        assert_eq!(certificates.dtls().unwrap().certificate, old.cert.der().to_vec());

        fs::write(&pair.certificate, new.cert.pem()).unwrap();
        let error = certificates.reload().unwrap_err();
        assert!(matches!(error, CertificateError::NotAPair(_)), "{error}");
        assert_eq!(shown(&certificates), old.cert.der().to_vec());

        write(&folder, "pair", &new);
        certificates.reload().unwrap();
        assert_eq!(shown(&certificates), new.cert.der().to_vec());
        assert_eq!(certificates.dtls().unwrap().certificate, new.cert.der().to_vec());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_file() {
        let folder = TempDir::new().unwrap();
        let good = write(&folder, "good", &make("good.example"));
        let empty = folder.path().join("empty");
        fs::write(&empty, "").unwrap();
        let missing = folder.path().join("missing");
        for (certificate, key, sentence) in [
            (&missing, &good.key, "cannot be read"),
            (&empty, &good.key, "holds no certificate in PEM"),
            (&good.certificate, &empty, "holds no private key"),
        ] {
            let pair = KeyPair { certificate: certificate.clone(), key: key.clone() };
            let error = Certificates::load(&[pair]).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
    }

    #[test]
    fn keys_are_not_shown() {
        let folder = TempDir::new().unwrap();
        let made = make("quiet.example");
        let certificates = Certificates::load(&[write(&folder, "quiet", &made)]).unwrap();
        let shown = format!("{certificates:?}");
        assert!(!shown.contains("Ec") && shown.len() < 2000, "{shown}");
    }
}
