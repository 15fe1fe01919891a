//! The smallest network address translator: what a home router does, for the way to one server.
//!
//! On loopback a peer's reflexive address equals its own, so ICE rightly drops the candidate (RFC 8445, section
//! 5.1.3). With a translator between peer and server it differs, and only the server can have told the peer. As
//! with every address-dependent filter, only that server's answers come back in.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// A running translator. Dropping it ends it.
#[derive(Debug)]
pub struct Translator {
    inside: SocketAddr,
    mappings: Arc<Mappings>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Mappings {
    inside: UdpSocket,
    server: SocketAddr,
    outside_of: Mutex<BTreeMap<SocketAddr, UdpSocket>>,
    over: AtomicBool,
}

impl Translator {
    /// Starts one on loopback, in front of `server`.
    pub fn before(server: SocketAddr) -> Result<Self> {
        let inside = loopback_socket().context("binding the inside")?;
        let address = inside.local_addr().context("asking for the inside address")?;
        let mappings = Arc::new(Mappings {
            inside,
            server,
            outside_of: Mutex::new(BTreeMap::new()),
            over: AtomicBool::new(false),
        });
        let thread = std::thread::spawn({
            let mappings = Arc::clone(&mappings);
            move || mappings.translate_outward()
        });
        Ok(Self { inside: address, mappings, thread: Some(thread) })
    }

    /// Where clients find the server.
    #[must_use]
    pub const fn inside(&self) -> SocketAddr {
        self.inside
    }

    /// As whom the server sees `client`, once it has sent something.
    pub fn outside_of(&self, client: SocketAddr) -> Option<SocketAddr> {
        self.mappings.lock().get(&client).and_then(|socket| socket.local_addr().ok())
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.mappings.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, the scenario has missed its datagrams and says so better.
            let _ = thread.join();
        }
    }
}

impl Mappings {
    /// Carries what clients send to the server, each client from a port of its own.
    fn translate_outward(self: &Arc<Self>) {
        let mut answers = Vec::new();
        let mut datagram = [0; MAX_DATAGRAM];
        while !self.over.load(Ordering::Relaxed) {
            let Ok((length, client)) = self.inside.recv_from(&mut datagram) else { continue };
            let Some(datagram) = datagram.get(..length) else { continue };
            let outside = self.lock().get(&client).and_then(|socket| socket.try_clone().ok());
            let outside = match outside {
                Some(outside) => outside,
                None => match self.open_mapping(client) {
                    Ok((outside, thread)) => {
                        answers.push(thread);
                        outside
                    }
                    Err(_) => continue,
                },
            };
            // A datagram that cannot be sent is lost, as datagrams are.
            let _ = outside.send(datagram);
        }
        for thread in answers {
            let _ = thread.join();
        }
    }

    fn open_mapping(self: &Arc<Self>, client: SocketAddr) -> std::io::Result<(UdpSocket, JoinHandle<()>)> {
        let outside = loopback_socket()?;
        outside.connect(self.server)?;
        self.lock().insert(client, outside.try_clone()?);
        let mappings = Arc::clone(self);
        let socket = outside.try_clone()?;
        Ok((outside, std::thread::spawn(move || mappings.translate_inward(&socket, client))))
    }

    /// Carries what the server answers back to `client`.
    fn translate_inward(&self, outside: &UdpSocket, client: SocketAddr) {
        let mut datagram = [0; MAX_DATAGRAM];
        while !self.over.load(Ordering::Relaxed) {
            let Ok(length) = outside.recv(&mut datagram) else { continue };
            let _ = self.inside.send_to(datagram.get(..length).unwrap_or_default(), client);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, UdpSocket>> {
        self.outside_of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that looks up now and then whether it is over.
fn loopback_socket() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    Ok(socket)
}

const MAX_DATAGRAM: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::PATIENCE;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    #[test]
    fn each_client_reaches_the_server_from_an_address_of_its_own_and_is_answered() {
        let server = socket();
        let translator = Translator::before(server.local_addr().unwrap()).unwrap();
        let mut seen = Vec::new();
        for client in [socket(), socket()] {
            client.send_to(b"who am I?", translator.inside()).unwrap();
            let mut buffer = [0; 64];
            let (_, from) = server.recv_from(&mut buffer).unwrap();
            assert_ne!(from, client.local_addr().unwrap());
            assert_eq!(translator.outside_of(client.local_addr().unwrap()), Some(from));
            server.send_to(from.to_string().as_bytes(), from).unwrap();
            let (length, answered_by) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], answered_by), (from.to_string().as_bytes(), translator.inside()));
            seen.push(from);
        }
        assert_ne!(seen[0], seen[1]);
    }

    #[test]
    fn a_stranger_does_not_come_in() {
        let (server, client, stranger) = (socket(), socket(), socket());
        let translator = Translator::before(server.local_addr().unwrap()).unwrap();
        client.send_to(b"hello", translator.inside()).unwrap();
        let mut buffer = [0; 64];
        let (_, outside) = server.recv_from(&mut buffer).unwrap();
        stranger.send_to(b"from a stranger", outside).unwrap();
        server.send_to(b"from the server", outside).unwrap();
        let (length, _) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"from the server");
    }
}
