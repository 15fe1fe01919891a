//! The simplest of load balancers: each connection goes to the next server that takes it. It remembers nobody.

use std::io::copy;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};

use crate::host::Host;

/// Forwards connections until it is dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    servers: Arc<Servers>,
}

#[derive(Debug)]
struct Servers {
    addresses: Mutex<Vec<SocketAddr>>,
    taken: AtomicUsize,
}

impl Balancer {
    /// Listens on `host` for connections to these.
    pub fn before(host: &Host, servers: Vec<SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind((host.ip, 0)).context("listening as a load balancer")?;
        let address = listener.local_addr()?;
        let servers = Arc::new(Servers { addresses: Mutex::new(servers), taken: AtomicUsize::new(0) });
        let known = Arc::downgrade(&servers);
        // It ends with the first connection after the drop, which is the drop's own.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Some(servers) = known.upgrade() else { return };
                if let (Ok(client), Some(server)) = (client, servers.next()) {
                    forward(client, server);
                }
            }
        });
        Ok(Self { address, servers })
    }

    /// For `--signaling`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it sends connections to these.
    pub fn serve(&self, servers: Vec<SocketAddr>) {
        *self.servers.addresses.lock().unwrap_or_else(PoisonError::into_inner) = servers;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.servers = Arc::new(Servers { addresses: Mutex::default(), taken: AtomicUsize::new(0) });
        let _ = TcpStream::connect(self.address);
    }
}

impl Servers {
    /// A connection to the next one in turn that takes it.
    fn next(&self) -> Option<TcpStream> {
        let servers = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let from_here = servers.iter().cycle().skip(turn % servers.len().max(1));
        from_here.take(servers.len()).find_map(|server| TcpStream::connect(server).ok())
    }
}

/// Copies both ways until either side ends, and then ends the other, as a broken connection would.
fn forward(client: TcpStream, server: TcpStream) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_again), Ok(server_again)) = (client.try_clone(), server.try_clone()) else { return };
    for (mut from, mut to) in [(client, server), (server_again, client_again)] {
        std::thread::spawn(move || {
            let _ = copy(&mut from, &mut to);
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// Says its letter to whoever comes.
    fn server(letter: u8) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let accepting = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            for client in accepting.incoming() {
                client.unwrap().write_all(&[letter]).unwrap();
            }
        });
        listener
    }

    #[test]
    fn connections_take_turns_and_pass_by_a_server_that_is_gone() {
        let [a, b] = [server(b'a'), server(b'b')].map(|listener| listener.local_addr().unwrap());
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let balancer = Balancer::before(&Host::local(), vec![a, gone, b]).unwrap();
        let ask = || {
            let mut heard = [0];
            TcpStream::connect(balancer.address).unwrap().read_exact(&mut heard).unwrap();
            heard[0]
        };
        assert_eq!([ask(), ask(), ask(), ask()], *b"abba");
        balancer.serve(vec![b]);
        assert_eq!(ask(), b'b');
    }
}
