//! The same through TLS and DTLS: what a handshake costs a server, and what a datagram.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use dimpl::crypto::rust_crypto;
use dimpl::{Config as DtlsConfig, Dtls, DtlsCertificate, Output};
use farcall_relay::stun::{Class, MessageWriter, Method, TransactionId};
use farcall_tests::clock::{self, Deadline, PATIENCE};
use farcall_tests::relay::USER;
use farcall_tests::turn_client::{Stranger, TurnClient, Wire};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::forwarder;
use crate::servers::SecureServer;

/// What keeps others from reading along.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Layer {
    /// 1.3, over TCP.
    Tls,
    /// 1.2, which is what all know.
    Dtls,
}

/// What connections of both layers are made from.
pub(crate) struct Connector {
    tls: Arc<ClientConfig>,
    dtls: Arc<DtlsConfig>,
    own: DtlsCertificate,
}

impl Connector {
    /// Trusts this certificate and resumes nothing.
    pub(crate) fn new(trusted: &[u8]) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(trusted.to_vec()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let mut tls = config.with_root_certificates(roots).with_no_client_auth();
        tls.resumption = Resumption::disabled();
        let own = rcgen::generate_simple_self_signed(["client.example".to_owned()])?;
        let own = DtlsCertificate {
            certificate: own.cert.der().to_vec(),
            private_key: own.signing_key.serialize_der(),
        };
        let dtls = DtlsConfig::builder().with_crypto_provider(rust_crypto::default_provider()).build()?;
        Ok(Self { tls: Arc::new(tls), dtls: Arc::new(dtls), own })
    }

    /// Shakes hands.
    pub(crate) fn connect(&self, server: &SecureServer, layer: Layer) -> Result<Box<dyn Wire>> {
        Ok(match layer {
            Layer::Tls => Box::new(TlsWire::connect(server.tls, &self.tls)?),
            Layer::Dtls => Box::new(DtlsWire::connect(server.dtls, self)?),
        })
    }
}

/// Asks for a Binding, since whoever is answered has been shaken hands with.
pub(crate) fn ask(wire: &mut dyn Wire) -> Result<()> {
    let mut request = Vec::new();
    let id = TransactionId(rand::random());
    MessageWriter::new(&mut request, Class::Request, Method::BINDING, id).finish()?;
    wire.send(&request)?;
    wire.receive().map(drop)
}

/// A client with a channel to a peer.
pub(crate) struct SecureSession {
    near: Box<dyn Wire>,
    far: UdpSocket,
    relayed: SocketAddr,
    frame: Vec<u8>,
    payload: Vec<u8>,
}

impl SecureSession {
    /// Opens one.
    pub(crate) fn open(near: Box<dyn Wire>, bytes: usize) -> Result<Self> {
        let payload = vec![0x5a; bytes];
        let far = UdpSocket::bind((forwarder::PEERS, 0)).context("binding a peer")?;
        far.set_nonblocking(true)?;
        let mut stranger = Stranger::over(near);
        stranger.knock()?;
        let mut client = stranger.ask(USER)?.allocated()?;
        client.bind_channel(far.local_addr()?)?;
        let (relayed, near) = (client.relayed(), client.into_wire());
        Ok(Self { near, far, relayed, frame: TurnClient::frame(&payload)?, payload })
    }
}

/// A datagram of each to its peer and back; returns how many of both arrived.
pub(crate) fn round(sessions: &mut [SecureSession]) -> Result<u64> {
    for session in sessions.iter_mut() {
        session.near.send(&session.frame)?;
    }
    for session in sessions.iter() {
        let deadline = Deadline::after(PATIENCE);
        while session.far.recv(&mut [0; 2048]).is_err() {
            ensure!(!deadline.passed(), "a datagram is lost on its way to the peer");
        }
        session.far.send_to(&session.payload, session.relayed)?;
    }
    for session in sessions.iter_mut() {
        session.near.receive()?;
    }
    Ok(2 * sessions.len() as u64)
}

struct TlsWire {
    stream: StreamOwned<ClientConnection, TcpStream>,
    unread: Vec<u8>,
}

impl TlsWire {
    fn connect(server: SocketAddr, config: &Arc<ClientConfig>) -> Result<Self> {
        let mut socket = TcpStream::connect(server).context("connecting")?;
        socket.set_nodelay(true)?;
        let mut connection = ClientConnection::new(Arc::clone(config), server.ip().into())?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket).context("shaking hands")?;
        }
        socket.set_nonblocking(true)?;
        Ok(Self { stream: StreamOwned::new(connection, socket), unread: Vec::new() })
    }
}

impl Wire for TlsWire {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.stream.write_all(message).context("sending")
    }

    /// One message of those that have come; all of a length that needs no padding.
    fn receive(&mut self) -> Result<Vec<u8>> {
        let deadline = Deadline::after(PATIENCE);
        let mut buffer = [0; 4096];
        loop {
            if let Some([kind, _, high, low]) = self.unread.first_chunk() {
                let header = if *kind < 0x40 { 20 } else { 4 };
                let length = header + usize::from(u16::from_be_bytes([*high, *low]));
                if self.unread.len() >= length {
                    let rest = self.unread.split_off(length);
                    return Ok(std::mem::replace(&mut self.unread, rest));
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(length) => self.unread.extend(buffer.iter().take(length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("waiting for an answer"),
            }
            ensure!(!deadline.passed(), "no answer");
        }
    }
}

struct DtlsWire {
    socket: UdpSocket,
    dtls: Dtls,
    is_open: bool,
    heard: VecDeque<Vec<u8>>,
}

impl DtlsWire {
    fn connect(server: SocketAddr, connector: &Connector) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let now = clock::now();
        let mut dtls = Dtls::new_12(Arc::clone(&connector.dtls), connector.own.clone(), now);
        dtls.set_active(true);
        dtls.handle_timeout(now)?;
        let mut wire = Self { socket, dtls, is_open: false, heard: VecDeque::new() };
        wire.drain()?;
        let deadline = Deadline::after(PATIENCE);
        while !wire.is_open {
            wire.hear()?;
            ensure!(!deadline.passed(), "no handshake");
        }
        Ok(wire)
    }

    /// Takes in what has come.
    fn hear(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            self.dtls.handle_packet(buffer.get(..length).unwrap_or_default())?;
            self.drain()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        let mut buffer = [0; 20_000];
        loop {
            match self.dtls.poll_output(&mut buffer) {
                Output::Packet(datagram) => drop(self.socket.send(datagram)?),
                Output::ApplicationData(data) => self.heard.push_back(data.to_vec()),
                Output::Connected => self.is_open = true,
                Output::Timeout(_) => return Ok(()),
                Output::CloseNotify => bail!("the server closed the association"),
                Output::BufferTooSmall { .. } => bail!("a record longer than any"),
                Output::PeerCert(_) | Output::KeyingMaterial(..) | _ => {}
            }
        }
    }
}

impl Wire for DtlsWire {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        self.dtls.send_application_data(message)?;
        self.drain()
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some(message) = self.heard.pop_front() {
                return Ok(message);
            }
            self.hear()?;
            ensure!(!deadline.passed(), "no answer");
        }
    }
}

impl Drop for DtlsWire {
    fn drop(&mut self) {
        // Whether or not the server hears of it.
        if self.dtls.close().is_ok() {
            let _ = self.drain();
        }
    }
}
