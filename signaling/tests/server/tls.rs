//! TLS on the port that cleartext uses as well, and certificates that change while the server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

use crate::harness::{Client, Participant, Server, request, soon};

/// An authority, and what it signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        let (pem, der) = (own.pem(), own.der().clone());
        Self { issuer: Issuer::new(params, key), pem, der, folder: tempfile::tempdir().unwrap() }
    }

    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Writes a certificate and its key, and returns the flags that name them.
    fn install(&self, file: &str, name: &str) -> [String; 4] {
        let (chain, key) = self.sign(name);
        let [chain_path, key_path] = [self.path(&format!("{file}.crt")), self.path(&format!("{file}.key"))];
        std::fs::write(&key_path, key).unwrap();
        std::fs::write(&chain_path, chain).unwrap();
        ["--tls-cert".into(), text(&chain_path), "--tls-key".into(), text(&key_path)]
    }

    fn ca_file(&self) -> String {
        let path = self.path("ca.pem");
        std::fs::write(&path, &self.pem).unwrap();
        text(&path)
    }

    fn trust(&self) -> ClientTlsConfig {
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.pem)).domain_name("localhost")
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().into()
}

async fn start(flags: &[String], more: &[&str]) -> Server {
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Server::start(&flags).await
}

async fn encrypted(server: &Server, tls: ClientTlsConfig) -> Result<Client, tonic::transport::Error> {
    let endpoint = Channel::from_shared(format!("https://{}", server.address())).unwrap();
    Ok(Client::new(endpoint.tls_config(tls)?.connect().await?))
}

/// The certificate that the server shows to whoever asks for this name, and the protocol agreed on.
async fn shown(server: &Server, name: &str, alpn: &str, authority: &Authority) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = soon("a handshake", connecting).await.ok()?;
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().unwrap()[0].to_vec();
    Some((certificate, session.alpn_protocol().unwrap_or_default().to_vec()))
}

#[tokio::test]
async fn tls_and_cleartext_share_the_port() {
    let authority = Authority::new();
    let server = start(&authority.install("a", "localhost"), &[]).await;
    let client = encrypted(&server, authority.trust()).await.unwrap();
    let mut ada = Participant::join(client, request("red")).await.unwrap();
    // From this machine alone.
    let mut bob = server.join("red").await;
    ada.next_event().await;
    bob.text("hello").await;
    assert_eq!(ada.next_text().await, "hello");
    for alpn in ["h2", "http/1.1"] {
        assert_eq!(shown(&server, "localhost", alpn, &authority).await.unwrap().1, alpn.as_bytes());
    }
}

#[tokio::test]
async fn cleartext_for_nobody_is_told_to_use_tls() {
    let authority = Authority::new();
    let server = start(&authority.install("a", "localhost"), &["--cleartext", "none"]).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("an answer", stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 403 "), "{answer:?}");
    encrypted(&server, authority.trust()).await.unwrap();
}

#[tokio::test]
async fn the_name_that_is_asked_for_decides() {
    let authority = Authority::new();
    let flags = [authority.install("a", "a.example"), authority.install("b", "*.b.example")].concat();
    let server = start(&flags, &[]).await;
    let a = shown(&server, "a.example", "h2", &authority).await.unwrap().0;
    let b = shown(&server, "x.b.example", "h2", &authority).await.unwrap().0;
    assert_ne!(a, b);
    assert!(shown(&server, "c.example", "h2", &authority).await.is_none(), "no certificate has this name");
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_bad_one_is_not() {
    let authority = Authority::new();
    let flags = authority.install("a", "localhost");
    let server = start(&flags, &["--metrics-listen", "127.0.0.1:0"]).await;
    let metrics = server.ready["ready"]["metrics"].as_str().unwrap().to_owned();
    let mut ada = Participant::join(encrypted(&server, authority.trust()).await.unwrap(), request("red"))
        .await
        .unwrap();
    let before = shown(&server, "localhost", "h2", &authority).await.unwrap();

    std::fs::write(authority.path("a.crt"), "nonsense").unwrap();
    server.signal("HUP").await;
    counted(&metrics, "farcall_signaling_reloads_failed_total").await;
    assert_eq!(shown(&server, "localhost", "h2", &authority).await.unwrap(), before);

    // Nobody says anything: the server sees it by itself.
    authority.install("a", "localhost");
    counted(&metrics, "farcall_signaling_reloads_total").await;
    assert_ne!(shown(&server, "localhost", "h2", &authority).await.unwrap(), before);
    ada.text("still here").await;
}

/// Waits until this counter has counted.
async fn counted(metrics: &str, name: &str) {
    let counted = async {
        loop {
            let page = crate::transport::http(metrics, "GET /metrics HTTP/1.1").await;
            let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            if value.unwrap() > 0 {
                return;
            }
        }
    };
    soon(name, counted).await;
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_where_an_authority_is_configured() {
    let authority = Authority::new();
    let ca = authority.ca_file();
    for (must, without) in [("required", false), ("optional", true)] {
        let flags = authority.install("a", "localhost");
        let server = start(&flags, &["--tls-client-ca", &ca, "--tls-client-auth", must]).await;
        let (chain, key) = authority.sign("ada");
        let known = authority.trust().identity(Identity::from_pem(chain, key));
        let client = encrypted(&server, known).await.unwrap();
        Participant::join(client, request("red")).await.unwrap();

        let joined = match encrypted(&server, authority.trust()).await {
            Ok(client) => Participant::join(client, request("red")).await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(joined, without, "{must}");
        let (chain, key) = Authority::new().sign("eve");
        let stranger = authority.trust().identity(Identity::from_pem(chain, key));
        let joined = match encrypted(&server, stranger).await {
            Ok(client) => Participant::join(client, request("blue")).await.is_ok(),
            Err(_) => false,
        };
        assert!(!joined, "{must}");
    }
}

#[tokio::test]
async fn whoever_says_too_little_is_gone_soon() {
    let authority = Authority::new();
    let server = start(&authority.install("a", "localhost"), &["--handshake-timeout", "200ms"]).await;
    // Nothing; half a record; a record and half a handshake.
    for said in [&b""[..], b"\x16\x03\x01\x02", b"\x16\x03\x01\x00\x10\x01\x00\x00\x80\x03\x03"] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let _ = soon("the end of the connection", stream.read_to_end(&mut answer)).await;
    }
    encrypted(&server, authority.trust()).await.unwrap();
}
