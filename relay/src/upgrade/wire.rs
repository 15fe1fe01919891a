//! How two processes of this program talk while one takes over from the other: messages in JSON behind their length,
//! descriptors beside a byte of data, in chunks as the kernel carries them.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, geteuid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;

/// The other process, which has so much time for what it is to do.
#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    until: Option<Instant>,
}

impl Wire {
    /// Only with a process of this user, or of the one who may do everything. The socket's mode keeps others out; this does
    /// so where it was changed.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        let peer = socket_peercred(&stream)?.uid;
        if peer != geteuid() && !peer.is_root() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the other process is another user's",
            ));
        }
        Ok(Self { stream, until: None })
    }

    /// Which process that is.
    pub(super) fn peer(&self) -> io::Result<Pid> {
        Ok(socket_peercred(&self.stream)?.pid)
    }

    /// From now on everything together may take so long.
    pub(super) fn allow(&mut self, time: Duration) {
        self.until = Some(clock::now() + time);
    }

    /// From now on it may take as long as it takes.
    pub(super) fn wait_for_ever(&mut self) {
        self.until = None;
    }

    pub(super) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Sends one message.
    pub(super) fn send(&mut self, message: &impl Serialize) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(|_| io::Error::other("a message of 4 GiB"))?;
        self.write_all(&length.to_be_bytes())?;
        self.write_all(&body)
    }

    /// Receives one of at most so many bytes.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, at_most: u32) -> io::Result<T> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length > at_most {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message beyond all bounds"));
        }
        let mut body = Vec::new();
        let read = self.take(length.into()).read_to_end(&mut body)?;
        if read as u64 != u64::from(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// Sends descriptors, which stay open here, too.
    pub(super) fn send_descriptors(&mut self, descriptors: &[impl AsFd]) -> io::Result<()> {
        for chunk in descriptors.chunks(CHUNK) {
            let borrowed: Vec<BorrowedFd<'_>> = chunk.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                return Err(io::Error::other("descriptors without room"));
            }
            self.stream.set_write_timeout(self.left()?)?;
            sendmsg(&self.stream, &[IoSlice::new(&[MARK])], &mut ancillary, SendFlags::NOSIGNAL)?;
        }
        Ok(())
    }

    /// Receives as many descriptors as the other end sends at once.
    pub(super) fn receive_descriptors<T: From<OwnedFd>>(&mut self, count: usize) -> io::Result<Vec<T>> {
        let mut descriptors = Vec::new();
        while descriptors.len() < count {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(CHUNK))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut mark = [0];
            self.stream.set_read_timeout(self.left()?)?;
            let received = recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(&mut mark)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )?;
            let before = descriptors.len();
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights.map(T::from));
                }
            }
            let expected = (count - before).min(CHUNK);
            if received.bytes == 0 || mark != [MARK] || descriptors.len() - before != expected {
                return Err(io::Error::other(
                    "descriptors were lost on the way (is the limit of open files reached?)",
                ));
            }
        }
        Ok(descriptors)
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let Some(until) = self.until else { return Ok(None) };
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The kernel carries 253.
const CHUNK: usize = 128;
const MARK: u8 = b'D';

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Wire, Wire) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Wire::new(ours).unwrap(), Wire::new(theirs).unwrap())
    }

    #[test]
    fn messages_and_descriptors_arrive_in_order() {
        let (mut ours, mut theirs) = pair();
        let files: Vec<_> = (0..300).map(|_| tempfile::tempfile().unwrap()).collect();
        for (at, file) in files.iter().enumerate() {
            (&*file).write_all(&at.to_be_bytes()).unwrap();
        }
        ours.send(&("hello", 7)).unwrap();
        ours.send_descriptors(&files).unwrap();
        ours.send(&"end").unwrap();
        assert_eq!(theirs.receive::<(String, u32)>(100).unwrap(), ("hello".into(), 7));
        let received: Vec<std::fs::File> = theirs.receive_descriptors(files.len()).unwrap();
        for (at, file) in received.into_iter().enumerate() {
            let mut bytes = [0; 8];
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, 0).unwrap();
            assert_eq!(usize::from_be_bytes(bytes), at);
        }
        assert_eq!(theirs.receive::<String>(100).unwrap(), "end");
        drop(ours);
        assert!(theirs.receive::<String>(100).is_err() && theirs.receive_descriptors::<OwnedFd>(1).is_err());
    }

    #[test]
    fn what_is_too_long_cut_off_or_nonsense_is_an_error() {
        for bytes in
            [&[0, 0, 0, 200][..], &[0, 0, 0, 9, b'"', b'a'], &[0, 0, 0, 1, b'{'], b"\xff\xff\xff\xff", b"\0"]
        {
            let (mut ours, mut theirs) = pair();
            ours.write_all(bytes).unwrap();
            drop(ours);
            assert!(theirs.receive::<String>(100).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn who_takes_one_byte_at_a_time_has_no_more_time_for_it() {
        let (mut ours, mut theirs) = pair();
        theirs.allow(Duration::from_millis(50));
        let dripping = std::thread::spawn(move || while ours.write_all(&[0]).is_ok() {});
        assert!(theirs.receive_descriptors::<OwnedFd>(1).is_err(), "no descriptors");
        let mut endless = [0; 1 << 16];
        while theirs.read(&mut endless).is_ok() {}
        drop(theirs);
        dripping.join().unwrap();
    }
}
