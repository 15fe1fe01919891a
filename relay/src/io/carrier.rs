//! What carries a stream: the connection as it is, or TLS on it.
//!
//! Reading and writing are those of the plain bytes. TLS adds nothing that waits but one record: it takes a frame in
//! only when the last one is out.

use std::io::{self, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;

use super::splice::End;

/// A connection.
#[derive(Debug)]
pub(super) struct Carrier {
    socket: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Carrier {
    pub(super) fn plain(socket: TcpStream) -> Self {
        // Frames are small and somebody waits for each.
        let _ = socket.set_nodelay(true);
        // What the kernel has not sent must wait here, where it can be dropped when it is too old.
        let _ = SockRef::from(&socket).set_tcp_notsent_lowat(MAX_UNSENT_BYTES);
        Self { socket, tls: None }
    }

    /// For bytes of which none is dropped: the kernel may keep more.
    pub(super) fn prepare_for_bulk(&self) {
        let _ = SockRef::from(&self.socket).set_tcp_notsent_lowat(MAX_UNSENT_BULK);
    }

    /// Speaks TLS from here on.
    pub(super) fn secure(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        self.tls = Some(Box::new(ServerConnection::new(config).map_err(io::Error::other)?));
        Ok(())
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Whether part of a record waits for the socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says that nothing more comes.
    pub(super) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // Whether it arrives or not, this is the end.
            let _ = write_records(&mut self.socket, tls);
        }
    }
}

impl Read for Carrier {
    /// Reads plain bytes. `Interrupted` says that records came that carry none, and that there may be more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer) };
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An end without the word for it is an end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            result => return result,
        }
        let received = tls.read_tls(&mut self.socket)?;
        let processed = tls.process_new_packets();
        // An alert says why, if anything does.
        write_records(&mut self.socket, tls)?;
        match processed {
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            Ok(state) if state.plaintext_bytes_to_read() > 0 => tls.reader().read(buffer),
            Ok(_) if received == 0 => Ok(0),
            Ok(_) => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

impl End for Carrier {
    fn finish(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            write_records(&mut self.socket, tls)?;
            if tls.wants_write() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        self.socket.shutdown(std::net::Shutdown::Write)
    }
}

impl Write for Carrier {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.socket.write(bytes) };
        write_records(&mut self.socket, tls)?;
        if tls.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = tls.writer().write(bytes)?;
        write_records(&mut self.socket, tls)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => write_records(&mut self.socket, tls),
            None => Ok(()),
        }
    }
}

/// Writes as far as it goes.
fn write_records(socket: &mut TcpStream, connection: &mut ServerConnection) -> io::Result<()> {
    while connection.wants_write() {
        match connection.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A few datagrams, so that the next is at hand when the network takes one.
const MAX_UNSENT_BYTES: u32 = 16 * 1024;
const MAX_UNSENT_BULK: u32 = 256 * 1024;
