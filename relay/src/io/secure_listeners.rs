//! The listening sockets of TLS and DTLS, shared by all workers as the others are.

use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::listeners::{BindError, Buffers, Sharing, bind_tcp, bind_udp};

/// What one worker listens on besides `Listeners`.
#[derive(Debug, Default)]
pub struct SecureListeners {
    pub(super) tls: Vec<TcpListener>,
    pub(super) dtls: Vec<UdpSocket>,
}

impl SecureListeners {
    /// Binds for this many workers.
    pub fn bind(
        tls: &[SocketAddr],
        dtls: &[SocketAddr],
        workers: usize,
        buffers: Buffers,
    ) -> Result<Vec<Self>, BindError> {
        let first = Self::bind_one(tls, dtls, Sharing::Opens, buffers)?;
        let (tls, dtls) = first.addresses();
        let more = (1..workers).map(|_| Self::bind_one(&tls, &dtls, Sharing::Joins, buffers));
        std::iter::once(Ok(first)).chain(more).collect()
    }

    /// Those of another process.
    #[must_use]
    pub fn taken_over(tls: Vec<TcpListener>, dtls: Vec<UdpSocket>) -> Self {
        Self { tls, dtls }
    }

    /// By DTLS.
    #[must_use]
    pub fn dtls(&self) -> &[UdpSocket] {
        &self.dtls
    }

    /// Parts with those of DTLS.
    pub fn take_dtls(&mut self) -> Vec<UdpSocket> {
        std::mem::take(&mut self.dtls)
    }

    /// By TLS.
    #[must_use]
    pub fn tls(&self) -> &[TcpListener] {
        &self.tls
    }

    /// Where these listen: TLS, then DTLS.
    #[must_use]
    pub fn addresses(&self) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        (
            self.tls.iter().filter_map(|socket| socket.local_addr().ok()).collect(),
            self.dtls.iter().filter_map(|socket| socket.local_addr().ok()).collect(),
        )
    }

    fn bind_one(
        tls: &[SocketAddr],
        dtls: &[SocketAddr],
        sharing: Sharing,
        buffers: Buffers,
    ) -> Result<Self, BindError> {
        let udp = |address: &SocketAddr| bind_udp(*address, sharing, buffers);
        Ok(Self {
            tls: tls.iter().map(|address| bind_tcp(*address, sharing)).collect::<Result<_, _>>()?,
            dtls: dtls.iter().map(udp).collect::<Result<_, _>>()?,
        })
    }
}
