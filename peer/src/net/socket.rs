//! UDP sockets as the driver wants them: with room for bursts, and watched.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

use super::turn_watch::TurnWatch;

/// Asks the kernel for room, since a burst that it drops costs SCTP a second each time; takes what it gives.
pub(super) fn make_room(socket: &UdpSocket) {
    let socket = SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(WANTED_BUFFER);
    let _ = socket.set_send_buffer_size(WANTED_BUFFER);
}

/// How much the kernel is ready to keep for a socket, in bytes of its own accounting.
pub(crate) fn receive_buffer() -> usize {
    static SIZE: OnceLock<usize> = OnceLock::new();
    *SIZE.get_or_init(|| {
        let probe = || {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            make_room(&socket);
            SockRef::from(&socket).recv_buffer_size()
        };
        probe().unwrap_or(0)
    })
}

/// A socket whose traffic with TURN servers is watched.
#[derive(Debug)]
pub(super) struct WatchedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    watch: Arc<TurnWatch>,
}

impl WatchedSocket {
    pub(super) fn new(inner: Arc<dyn AsyncUdpSocket>, watch: Arc<TurnWatch>) -> Self {
        Self { inner, watch }
    }
}

impl AsyncUdpSocket for WatchedSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let sent = ready!(self.inner.poll_send(cx, transmit))?;
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            self.watch.sent(transmit.destination, datagram);
        }
        Poll::Ready(Ok(sent))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let messages = ready!(self.inner.poll_recv(cx, bufs, meta))?;
        for (buffer, meta) in bufs.iter().zip(meta.iter()).take(messages) {
            let received = buffer.get(..meta.len).unwrap_or_default();
            for datagram in received.chunks(meta.stride.max(1)) {
                self.watch.received(meta.addr, datagram);
            }
        }
        Poll::Ready(Ok(messages))
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

/// What a burst of a full SCTP window needs, with the kernel's overhead for each datagram.
const WANTED_BUFFER: usize = 4 << 20;
