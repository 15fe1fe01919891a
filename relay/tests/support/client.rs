//! A TURN client made of the server's own codec and blocking sockets.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard};

use farcall_relay::auth::UserHash;
use farcall_relay::stun::address::EncodedAddress;
use farcall_relay::stun::framing::{Framed, first_frame};
use farcall_relay::stun::password_algorithm::PASSWORD_ALGORITHMS;
use farcall_relay::stun::{
    AttributeType, ChannelNumber, Class, ErrorCode, Integrity, IntegrityKey, Message, MessageWriter, Method,
    PasswordAlgorithm, TransactionId, channel_data,
};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::{DEADLINE, udp_socket};

pub(crate) type Attributes = Vec<(AttributeType, Vec<u8>)>;

/// What the server said.
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).unwrap()
    }

    pub(crate) fn code(&self) -> Option<u16> {
        self.message().find(AttributeType::ERROR_CODE).and_then(ErrorCode::parse).map(ErrorCode::number)
    }

    pub(crate) fn address(&self, kind: AttributeType) -> SocketAddr {
        self.message().find_xor_address(kind).unwrap()
    }
}

/// How it reaches the server.
enum Carrier {
    Udp(UdpSocket),
    Stream { stream: Box<dyn Stream>, local: SocketAddr, unread: Vec<u8> },
}

/// Bytes both ways.
trait Stream: Read + Write + Send {}

impl Stream for TcpStream {}
impl Stream for Shared {}

/// A TLS connection that its test can look at.
pub(crate) type TlsConnection = Arc<Mutex<StreamOwned<ClientConnection, TcpStream>>>;

struct Shared(TlsConnection);

impl Shared {
    fn connection(&self) -> MutexGuard<'_, StreamOwned<ClientConnection, TcpStream>> {
        self.0.lock().unwrap()
    }
}

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.connection().read(buffer)
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.connection().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection().flush()
    }
}

/// A client with an identity.
pub(crate) struct Client {
    carrier: Carrier,
    username: String,
    password: String,
    realm: String,
    nonce: Vec<u8>,
    transactions: u64,
    generation: Generation,
}

/// Which RFC a client goes by when it authenticates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Generation {
    Rfc5389,
    Rfc8489,
}

impl Client {
    pub(crate) fn udp(server: SocketAddr) -> Self {
        let socket = if server.is_ipv4() { udp_socket() } else { UdpSocket::bind("[::1]:0").unwrap() };
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.connect(server).unwrap();
        Self::new(Carrier::Udp(socket))
    }

    pub(crate) fn tcp(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// By a connection that may have begun.
    pub(crate) fn over(stream: TcpStream) -> Self {
        let local = stream.local_addr().unwrap();
        Self::new(Carrier::Stream { stream: Box::new(stream), local, unread: Vec::new() })
    }

    /// By TLS on such a connection.
    pub(crate) fn tls(stream: TcpStream, config: Arc<ClientConfig>) -> (Self, TlsConnection) {
        let local = stream.local_addr().unwrap();
        let connection = ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
        let connection = Arc::new(Mutex::new(StreamOwned::new(connection, stream)));
        let stream = Box::new(Shared(Arc::clone(&connection)));
        (Self::new(Carrier::Stream { stream, local, unread: Vec::new() }), connection)
    }

    fn new(carrier: Carrier) -> Self {
        let (username, password) = ("alice".into(), "wonder".into());
        let generation = Generation::Rfc5389;
        Self {
            carrier,
            username,
            password,
            realm: String::new(),
            nonce: Vec::new(),
            transactions: 0,
            generation,
        }
    }

    /// Chooses SHA-256 and hides its name.
    pub(crate) fn modern(self) -> Self {
        Self { generation: Generation::Rfc8489, ..self }
    }

    pub(crate) fn with_user(mut self, username: &str, password: &str) -> Self {
        (self.username, self.password) = (username.into(), password.into());
        self
    }

    pub(crate) fn local_address(&self) -> SocketAddr {
        match &self.carrier {
            Carrier::Udp(socket) => socket.local_addr().unwrap(),
            Carrier::Stream { local, .. } => *local,
        }
    }

    /// A relayed address.
    pub(crate) fn allocate(&mut self) -> SocketAddr {
        let answer = self.ask(Method::ALLOCATE, &udp());
        assert_eq!(answer.code(), None);
        answer.address(AttributeType::XOR_RELAYED_ADDRESS)
    }

    pub(crate) fn permit(&mut self, peer: SocketAddr) -> Option<u16> {
        self.ask_about(Method::CREATE_PERMISSION, peer, &vec![]).code()
    }

    pub(crate) fn bind(&mut self, channel: u16, peer: SocketAddr) -> Option<u16> {
        let [high, low] = channel.to_be_bytes();
        let number = vec![(AttributeType::CHANNEL_NUMBER, vec![high, low, 0, 0])];
        self.ask_about(Method::CHANNEL_BIND, peer, &number).code()
    }

    /// A permission for all of them at once.
    pub(crate) fn permit_all(&mut self, peers: &[SocketAddr]) -> Option<u16> {
        let id = self.upcoming();
        let value = |peer: &SocketAddr| EncodedAddress::xor(*peer, &id).as_bytes().to_vec();
        let attributes = peers.iter().map(|peer| (AttributeType::XOR_PEER_ADDRESS, value(peer))).collect();
        self.ask(Method::CREATE_PERMISSION, &attributes).code()
    }

    /// A signed request, not sent yet.
    pub(crate) fn prepare(&mut self, method: Method, attributes: &Attributes) -> Vec<u8> {
        // An empty Refresh fetches a nonce and does nothing else.
        self.ask(Method::REFRESH, &vec![]);
        let id = self.transaction();
        self.signed(method, id, attributes)
    }

    /// A request about a peer.
    pub(crate) fn ask_about(&mut self, method: Method, peer: SocketAddr, more: &Attributes) -> Answer {
        let value = EncodedAddress::xor(peer, &self.upcoming()).as_bytes().to_vec();
        self.ask(method, &[more.clone(), vec![(AttributeType::XOR_PEER_ADDRESS, value)]].concat())
    }

    /// A request and its answer; if the server wants a nonce first, with it and once more.
    pub(crate) fn ask(&mut self, method: Method, attributes: &Attributes) -> Answer {
        let id = self.transaction();
        let request = self.signed(method, id, attributes);
        let answer = self.exchange(&request);
        if !matches!(answer.code(), Some(401 | 438)) || !self.nonce.is_empty() {
            return answer;
        }
        let text = |kind| answer.message().find_text(kind).unwrap().to_owned();
        self.realm = text(AttributeType::REALM);
        self.nonce = text(AttributeType::NONCE).into_bytes();
        let request = self.signed(method, id, attributes);
        self.exchange(&request)
    }

    /// A message without credentials and its answer.
    pub(crate) fn ask_plainly(&mut self, method: Method, attributes: &Attributes) -> Answer {
        let request = self.plain(Class::Request, method, attributes);
        self.exchange(&request)
    }

    /// A Send indication.
    pub(crate) fn send(&mut self, peer: SocketAddr, data: &[u8], more: &Attributes) {
        let value = EncodedAddress::xor(peer, &self.upcoming()).as_bytes().to_vec();
        let attributes = vec![(AttributeType::XOR_PEER_ADDRESS, value), (AttributeType::DATA, data.to_vec())];
        let message = self.plain(Class::Indication, Method::SEND, &[attributes, more.clone()].concat());
        self.transmit(&message);
    }

    pub(crate) fn send_by_channel(&mut self, channel: u16, data: &[u8]) {
        let header = channel_data::header(ChannelNumber::new(channel).unwrap(), data.len()).unwrap();
        let padding = match &self.carrier {
            Carrier::Udp(_) => &[],
            Carrier::Stream { .. } => channel_data::stream_padding(data.len()),
        };
        self.transmit(&[&header, data, padding].concat());
    }

    /// Bytes as they are.
    pub(crate) fn transmit(&mut self, bytes: &[u8]) {
        match &mut self.carrier {
            Carrier::Udp(socket) => drop(socket.send(bytes).unwrap()),
            Carrier::Stream { stream, .. } => stream.write_all(bytes).and_then(|()| stream.flush()).unwrap(),
        }
    }

    /// The socket of a client that comes by UDP.
    pub(crate) fn udp_socket(&self) -> &UdpSocket {
        match &self.carrier {
            Carrier::Udp(socket) => socket,
            Carrier::Stream { .. } => panic!("a client by stream"),
        }
    }

    /// The next datagram or frame.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let mut buffer = [0; 65536];
        match &mut self.carrier {
            Carrier::Udp(socket) => {
                let length = socket.recv(&mut buffer).expect("an answer in time");
                buffer[..length].to_vec()
            }
            Carrier::Stream { stream, unread, .. } => loop {
                if let Framed::Frame(frame) = first_frame(unread).unwrap() {
                    let frame = frame.to_vec();
                    unread.drain(..frame.len());
                    return frame;
                }
                let length = stream.read(&mut buffer).expect("an answer in time");
                assert_ne!(length, 0, "the server closed");
                unread.extend_from_slice(&buffer[..length]);
            },
        }
    }

    /// Waits until the server closes the stream, whatever it still says.
    pub(crate) fn wait_for_end(&mut self) {
        let Carrier::Stream { stream, .. } = &mut self.carrier else { panic!("datagrams have no end") };
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("no end in time: {error}"),
            }
        }
    }

    /// A message that is not signed.
    pub(crate) fn plain(&mut self, class: Class, method: Method, attributes: &Attributes) -> Vec<u8> {
        let mut bytes = Vec::new();
        let id = self.transaction();
        let mut writer = MessageWriter::new(&mut bytes, class, method, id);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        writer.finish().unwrap();
        bytes
    }

    /// A message signed with what the client knows; without a nonce it is not signed at all.
    pub(crate) fn signed(&self, method: Method, id: TransactionId, attributes: &Attributes) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, method, id);
        for (kind, value) in attributes {
            writer.attribute(*kind, value);
        }
        if !self.nonce.is_empty() {
            let hash = UserHash::of(&self.username, &self.realm);
            let (algorithm, integrity) = match self.generation {
                Generation::Rfc5389 => (PasswordAlgorithm::Md5, Integrity::Sha1),
                Generation::Rfc8489 => (PasswordAlgorithm::Sha256, Integrity::Sha256),
            };
            match self.generation {
                Generation::Rfc5389 => writer.attribute(AttributeType::USERNAME, self.username.as_bytes()),
                Generation::Rfc8489 => writer
                    .attribute(AttributeType::USERHASH, hash.as_bytes())
                    .attribute(AttributeType::PASSWORD_ALGORITHM, &algorithm.to_value())
                    .attribute(AttributeType::PASSWORD_ALGORITHMS, &PASSWORD_ALGORITHMS),
            };
            writer
                .attribute(AttributeType::REALM, self.realm.as_bytes())
                .attribute(AttributeType::NONCE, &self.nonce)
                .sign(integrity, &self.key(algorithm));
        }
        writer.finish().unwrap();
        bytes
    }

    /// What it makes of its password.
    pub(crate) fn key(&self, algorithm: PasswordAlgorithm) -> IntegrityKey {
        IntegrityKey::long_term(algorithm, &self.username, &self.realm, &self.password)
    }

    fn exchange(&mut self, request: &[u8]) -> Answer {
        self.transmit(request);
        Answer { bytes: self.receive() }
    }

    fn transaction(&mut self) -> TransactionId {
        let id = self.upcoming();
        self.transactions += 1;
        id
    }

    /// The id of the next message.
    pub(crate) fn upcoming(&self) -> TransactionId {
        let mut id = [7; 12];
        id[4..].copy_from_slice(&self.transactions.to_be_bytes());
        TransactionId(id)
    }
}

/// The attributes of the simplest Allocate.
pub(crate) fn udp() -> Attributes {
    vec![(AttributeType::REQUESTED_TRANSPORT, vec![17, 0, 0, 0])]
}

/// The same with something more.
pub(crate) fn udp_and(kind: AttributeType, value: &[u8]) -> Attributes {
    [udp(), vec![(kind, value.to_vec())]].concat()
}
