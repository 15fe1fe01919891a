//! What belongs to TLS, DTLS and proxies: listeners, certificates, and whose word is taken.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::parse::{self, Parser};
use super::raw::Raw;
use crate::certificates::{Certificates, KeyPair};

/// The ways in besides plain UDP and TCP.
#[derive(Debug, Clone, Default)]
pub struct SecureConfig {
    /// TLS.
    pub tls_listen: Vec<SocketAddr>,
    /// DTLS.
    pub dtls_listen: Vec<SocketAddr>,
    /// Read and found good; none where no listener needs one.
    pub certificates: Option<Certificates>,
    /// Proxies that say where a connection comes from.
    pub proxies: Vec<IpNet>,
}

impl SecureConfig {
    pub(super) fn read(raw: &mut Raw, parser: &mut Parser) -> Self {
        let tls_listen: Vec<SocketAddr> = parser.list("tls-listen", raw.tls_listen.take(), parse::from_str);
        let dtls_listen: Vec<SocketAddr> =
            parser.list("dtls-listen", raw.dtls_listen.take(), parse::from_str);
        for (key, addresses) in [("tls-listen", &tls_listen), ("dtls-listen", &dtls_listen)] {
            for (at, address) in addresses.iter().enumerate() {
                if address.port() != 0 && addresses.iter().take(at).any(|before| before == address) {
                    parser.mistake(key, format_args!("{address} comes twice"));
                }
            }
        }
        let certificates = read_certificates(raw, parser);
        match &certificates {
            None if !tls_listen.is_empty() => parser.mistake("tls-listen", "needs tls-cert and tls-key"),
            None if !dtls_listen.is_empty() => parser.mistake("dtls-listen", "needs tls-cert and tls-key"),
            Some(Ok(certificates)) if !dtls_listen.is_empty() && certificates.dtls().is_none() => {
                parser.mistake("dtls-listen", "needs a certificate whose key is ECDSA on P-256 or P-384");
            }
            Some(_) | None => {}
        }
        let proxies = parser.list("proxy-protocol-from", raw.proxy_protocol_from.take(), parse::cidr);
        let certificates = certificates.and_then(Result::ok);
        Self { tls_listen, dtls_listen, certificates, proxies }
    }
}

/// `None` if there are none; what is wrong with them has been said.
fn read_certificates(raw: &mut Raw, parser: &mut Parser) -> Option<Result<Certificates, ()>> {
    let paths = |texts: Option<Vec<String>>| texts.into_iter().flatten().map(PathBuf::from);
    let certificates: Vec<_> = paths(raw.tls_cert.take()).collect();
    let keys: Vec<_> = paths(raw.tls_key.take()).collect();
    if certificates.len() != keys.len() {
        let counts = format_args!("{} for {} of tls-cert", keys.len(), certificates.len());
        parser.mistake("tls-key", counts);
        return Some(Err(()));
    }
    let pairs: Vec<_> =
        certificates.into_iter().zip(keys).map(|(certificate, key)| KeyPair { certificate, key }).collect();
    (!pairs.is_empty()).then(|| Certificates::load(&pairs).map_err(|error| parser.mistake("tls-cert", error)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::{Args, Config, ConfigError};

    fn config(flags: &[&str]) -> Result<Config, ConfigError> {
        match Args::try_parse_from([&["farcall-relay"], flags].concat()) {
            Ok(args) => Config::load(args),
            Err(error) => panic!("{error}"),
        }
    }

    /// A certificate and its key as files, for flags and for TOML.
    fn pair(folder: &tempfile::TempDir, algorithm: &'static rcgen::SignatureAlgorithm) -> [String; 2] {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate =
            rcgen::CertificateParams::new(["relay.example".into()]).unwrap().self_signed(&key).unwrap();
        let paths = ["cert.pem", "key.pem"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
        std::fs::write(&paths[0], certificate.pem()).unwrap();
        std::fs::write(&paths[1], key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn secure_listeners_read_in_a_file_as_on_the_command_line() {
        let folder = tempfile::TempDir::new().unwrap();
        let [certificate, key] = pair(&folder, &rcgen::PKCS_ECDSA_P256_SHA256);
        let flags = config(&[
            "--tls-listen=127.0.0.1:1",
            "--tls-listen=127.0.0.1:2",
            "--dtls-listen=127.0.0.1:1",
            &format!("--tls-cert={certificate}"),
            &format!("--tls-key={key}"),
            "--proxy-protocol-from=10.0.0.0/8,::1",
        ]);
        let file = Config::from_toml(&format!(
            "tls-listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\ndtls-listen = \"127.0.0.1:1\"\n\
             tls-cert = {certificate:?}\ntls-key = {key:?}\nproxy-protocol-from = [\"10.0.0.0/8\", \"::1\"]\n"
        ));
        let (flags, file) = (flags.unwrap(), file.unwrap());
        assert_eq!(format!("{:?}", flags.secure), format!("{:?}", file.secure));
        assert_eq!((flags.secure.tls_listen.len(), flags.secure.proxies.len()), (2, 2));
        assert!(flags.secure.certificates.is_some_and(|certificates| certificates.dtls().is_some()));
    }

    #[test]
    fn secure_listeners_without_what_they_need_are_mistakes() {
        let folder = tempfile::TempDir::new().unwrap();
        let [certificate, key] = pair(&folder, &rcgen::PKCS_ED25519).map(|path| format!("={path}"));
        let (certificate, key) = (format!("--tls-cert{certificate}"), format!("--tls-key{key}"));
        for (flags, mistake) in [
            (vec!["--tls-listen=127.0.0.1:1"], "tls-listen: needs"),
            (vec!["--dtls-listen=127.0.0.1:1"], "dtls-listen: needs"),
            (vec!["--tls-listen=127.0.0.1:1", &certificate], "tls-key: 0 for 1"),
            (
                vec!["--dtls-listen=127.0.0.1:1", &certificate, &key],
                "dtls-listen: needs a certificate whose key",
            ),
            (
                vec!["--tls-cert=/nonexistent", "--tls-key=/nonexistent"],
                "tls-cert: /nonexistent cannot be read",
            ),
            (
                vec!["--tls-listen=127.0.0.1:1,127.0.0.1:1", &certificate, &key],
                "tls-listen: 127.0.0.1:1 comes twice",
            ),
            (vec!["--proxy-protocol-from=10.0.0.1/8"], "proxy-protocol-from: "),
        ] {
            let error = config(&flags).unwrap_err();
            assert!(error.to_string().starts_with(mistake), "{error}");
            assert_eq!(error.mistakes().len(), 1, "{error}");
        }
    }
}
