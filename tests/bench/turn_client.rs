//! A TURN client that does one thing: get an allocation with a channel and push datagrams through it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, bail, ensure};
use farcall_relay::stun::{
    AttributeType, ChannelNumber, Class, ErrorCode, IntegrityKey, Message, MessageWriter, Method,
    TransactionId, channel_data,
};
use farcall_tests::clock::PATIENCE;

/// REQUESTED-TRANSPORT: UDP, and three reserved bytes.
const UDP: [u8; 4] = [17, 0, 0, 0];

/// A client with an allocation.
#[derive(Debug)]
pub(crate) struct TurnClient {
    socket: UdpSocket,
    relayed: SocketAddr,
    credentials: Credentials,
}

#[derive(Debug)]
struct Credentials {
    username: String,
    realm: String,
    nonce: String,
    key: IntegrityKey,
}

/// The channel that every client binds.
fn channel() -> Result<ChannelNumber> {
    ChannelNumber::new(0x4000).context("0x4000 is a channel number")
}

impl TurnClient {
    /// Allocates at `server`.
    pub(crate) fn allocate(server: SocketAddr, (username, password): (&str, &str)) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a client")?;
        socket.connect(server).context("connecting a client")?;
        socket.set_read_timeout(Some(PATIENCE))?;

        let mut buffer = Vec::new();
        let id = transaction_id();
        MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id)
            .attribute(AttributeType::REQUESTED_TRANSPORT, &UDP)
            .finish()?;
        let challenge = exchange(&socket, &buffer)?;
        let challenge = Message::parse(&challenge)?;
        let code = challenge.find(AttributeType::ERROR_CODE).and_then(ErrorCode::parse);
        ensure!(code == Some(ErrorCode::UNAUTHENTICATED), "the challenge is {code:?}");
        let realm =
            challenge.find_text(AttributeType::REALM).context("a challenge without realm")?.to_owned();
        let nonce =
            challenge.find_text(AttributeType::NONCE).context("a challenge without nonce")?.to_owned();
        let key = IntegrityKey::long_term_md5(username, &realm, password);
        let credentials = Credentials { username: username.to_owned(), realm, nonce, key };

        let mut client = Self { socket, relayed: server, credentials };
        let answer = client.request(Method::ALLOCATE, |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &UDP);
        })?;
        let relayed = Message::parse(&answer)?.find_xor_address(AttributeType::XOR_RELAYED_ADDRESS);
        client.relayed = relayed.context("an allocation without an address")?;
        Ok(client)
    }

    /// Binds the channel to `peer`; from then on the socket does not block.
    pub(crate) fn bind_channel(&self, peer: SocketAddr) -> Result<()> {
        let [high, low] = channel()?.number().to_be_bytes();
        self.request(Method::CHANNEL_BIND, |writer| {
            writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })?;
        self.socket.set_nonblocking(true).context("making a client non-blocking")
    }

    /// Where peers send to.
    pub(crate) const fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// `data` as it goes through the channel.
    pub(crate) fn frame(data: &[u8]) -> Result<Vec<u8>> {
        let header = channel_data::header(channel()?, data.len()).context("too long for a channel")?;
        Ok([&header[..], data].concat())
    }

    /// Its socket, which is all that a channel's data needs.
    pub(crate) fn into_socket(self) -> UdpSocket {
        self.socket
    }

    /// Ends the allocation.
    pub(crate) fn release(&self) -> Result<()> {
        self.socket.set_nonblocking(false)?;
        self.request(Method::REFRESH, |writer| {
            writer.attribute(AttributeType::LIFETIME, &[0; 4]);
        })
        .map(drop)
    }

    fn request(&self, method: Method, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Result<Vec<u8>> {
        let Credentials { username, realm, nonce, key } = &self.credentials;
        let mut buffer = Vec::new();
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, method, transaction_id());
        attributes(&mut writer);
        writer
            .attribute(AttributeType::USERNAME, username.as_bytes())
            .attribute(AttributeType::REALM, realm.as_bytes())
            .attribute(AttributeType::NONCE, nonce.as_bytes())
            .integrity(key)
            .finish()?;
        let answer = exchange(&self.socket, &buffer)?;
        let message = Message::parse(&answer)?;
        if message.class() != Class::Success {
            let code = message.find(AttributeType::ERROR_CODE).and_then(ErrorCode::parse);
            bail!("{method:?} was refused with {code:?}");
        }
        Ok(answer)
    }
}

fn exchange(socket: &UdpSocket, request: &[u8]) -> Result<Vec<u8>> {
    socket.send(request).context("sending a request")?;
    let mut answer = vec![0; 2048];
    let length = socket.recv(&mut answer).context("waiting for an answer")?;
    answer.truncate(length);
    Ok(answer)
}

/// Unpredictable is not needed here, different is.
fn transaction_id() -> TransactionId {
    TransactionId(rand::random())
}
