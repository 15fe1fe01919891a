//! A TURN client that does one thing: get an allocation with a channel and push datagrams through it.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use crate::clock::{Deadline, PATIENCE};
use anyhow::{Context as _, Result, bail, ensure};
use farcall_relay::stun::{
    AttributeType, ChannelNumber, Class, ErrorCode, IntegrityKey, Message, MessageWriter, Method,
    TransactionId, channel_data,
};

/// REQUESTED-TRANSPORT: UDP, and three reserved bytes.
const UDP: [u8; 4] = [17, 0, 0, 0];

/// What goes between a client and a server.
pub trait Wire {
    /// Sends one message.
    fn send(&mut self, message: &[u8]) -> Result<()>;
    /// Waits for one.
    fn receive(&mut self) -> Result<Vec<u8>>;
}

/// It does not block: who waits asleep has to be woken, which on one machine is the server's time.
impl Wire for UdpSocket {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        Self::send(self, message).map(drop).context("sending a request")
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        let deadline = Deadline::after(PATIENCE);
        let mut answer = vec![0; 2048];
        loop {
            match self.recv(&mut answer) {
                Ok(length) => {
                    answer.truncate(length);
                    return Ok(answer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    ensure!(!deadline.passed(), "no answer");
                }
                Err(error) => return Err(error).context("waiting for an answer"),
            }
        }
    }
}

impl Wire for Box<dyn Wire> {
    fn send(&mut self, message: &[u8]) -> Result<()> {
        (**self).send(message)
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        (**self).receive()
    }
}

/// A client with an allocation.
#[derive(Debug)]
pub struct TurnClient<W = UdpSocket> {
    wire: W,
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

/// A client that has asked without a password, to be told what one is for.
#[derive(Debug)]
pub struct Stranger<W = UdpSocket> {
    wire: W,
}

impl Stranger {
    /// Has a socket, and has said nothing yet.
    pub fn new(server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("binding a client")?;
        socket.connect(server).context("connecting a client")?;
        socket.set_nonblocking(true)?;
        Ok(Self { wire: socket })
    }
}

impl<W: Wire> Stranger<W> {
    /// By a connection that there is.
    pub fn over(wire: W) -> Self {
        Self { wire }
    }

    /// Asks for an allocation.
    pub fn knock(&mut self) -> Result<()> {
        let mut buffer = Vec::new();
        MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, transaction_id())
            .attribute(AttributeType::REQUESTED_TRANSPORT, &UDP)
            .finish()?;
        self.wire.send(&buffer)
    }

    /// Asks again, with what the challenge wants.
    pub fn ask(mut self, (username, password): (&str, &str)) -> Result<TurnClient<W>> {
        let challenge = self.wire.receive()?;
        let challenge = Message::parse(&challenge)?;
        let code = challenge.find(AttributeType::ERROR_CODE).and_then(ErrorCode::parse);
        ensure!(code == Some(ErrorCode::UNAUTHENTICATED), "the challenge is {code:?}");
        let realm =
            challenge.find_text(AttributeType::REALM).context("a challenge without realm")?.to_owned();
        let nonce =
            challenge.find_text(AttributeType::NONCE).context("a challenge without nonce")?.to_owned();
        let key = IntegrityKey::long_term_md5(username, &realm, password);
        let credentials = Credentials { username: username.to_owned(), realm, nonce, key };
        let relayed = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let mut client = TurnClient { wire: self.wire, relayed, credentials };
        client.send(Method::ALLOCATE, |writer| {
            writer.attribute(AttributeType::REQUESTED_TRANSPORT, &UDP);
        })?;
        Ok(client)
    }
}

impl TurnClient {
    /// Allocates at `server`.
    pub fn allocate(server: SocketAddr, user: (&str, &str)) -> Result<Self> {
        let mut stranger = Stranger::new(server)?;
        stranger.knock()?;
        stranger.ask(user)?.allocated()
    }

    /// `data` as it goes through the channel.
    pub fn frame(data: &[u8]) -> Result<Vec<u8>> {
        let header = channel_data::header(channel()?, data.len()).context("too long for a channel")?;
        Ok([&header[..], data].concat())
    }
}

impl<W: Wire> TurnClient<W> {
    /// Waits for what it asked for.
    pub fn allocated(mut self) -> Result<Self> {
        let answer = self.answer()?;
        let relayed = Message::parse(&answer)?.find_xor_address(AttributeType::XOR_RELAYED_ADDRESS);
        self.relayed = relayed.context("an allocation without an address")?;
        Ok(self)
    }

    /// Binds the channel to `peer`.
    pub fn bind_channel(&mut self, peer: SocketAddr) -> Result<()> {
        let [high, low] = channel()?.number().to_be_bytes();
        self.send(Method::CHANNEL_BIND, |writer| {
            writer.attribute(AttributeType::CHANNEL_NUMBER, &[high, low, 0, 0]);
            writer.xor_address(AttributeType::XOR_PEER_ADDRESS, peer);
        })?;
        self.answer().map(drop)
    }

    /// Where peers send to.
    pub const fn relayed(&self) -> SocketAddr {
        self.relayed
    }

    /// Its connection, which is all that a channel's data needs.
    pub fn into_wire(self) -> W {
        self.wire
    }

    /// Ends the allocation.
    pub fn release(&mut self) -> Result<()> {
        self.leave()?;
        self.answer().map(drop)
    }

    /// Asks for the end of the allocation; the answer is still to come.
    pub fn leave(&mut self) -> Result<()> {
        self.send(Method::REFRESH, |writer| {
            writer.attribute(AttributeType::LIFETIME, &[0; 4]);
        })
    }

    fn send(&mut self, method: Method, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Result<()> {
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
        self.wire.send(&buffer)
    }

    /// What the server says next, which should be yes.
    pub fn answer(&mut self) -> Result<Vec<u8>> {
        let answer = self.wire.receive()?;
        let message = Message::parse(&answer)?;
        if message.class() != Class::Success {
            let code = message.find(AttributeType::ERROR_CODE).and_then(ErrorCode::parse);
            bail!("{:?} was refused with {code:?}", message.method());
        }
        Ok(answer)
    }
}

/// Unpredictable is not needed here, different is.
fn transaction_id() -> TransactionId {
    TransactionId(rand::random())
}
