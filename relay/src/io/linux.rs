//! Many datagrams a call: `recvmmsg` with `UDP_GRO`, `sendmmsg` with `UDP_SEGMENT`. The only unsafe code there is.
//!
//! Addresses and control messages are read and written as bytes, so that what is unsafe is the calls alone. Every
//! pointer is set anew before the call that follows it.

use std::io;
use std::mem::offset_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

mod errors;

pub(super) use errors::{insist, keep_errors, next_error};

use super::batch::Slot;
use super::outbox::{Group, Outcome, Refusals};

/// What `recvmmsg` is told, and where it writes to beside the datagrams.
#[derive(Debug)]
pub(super) struct ReceiveHeaders {
    headers: Vec<Header>,
    vectors: Vec<Vector>,
    names: Vec<Name>,
    controls: Vec<Control>,
}

impl ReceiveHeaders {
    pub(super) fn new(messages: usize) -> Self {
        Self {
            headers: vec![Header::EMPTY; messages],
            vectors: vec![Vector::EMPTY; messages],
            names: vec![Name::EMPTY; messages],
            controls: vec![Control::EMPTY; messages],
        }
    }

    /// Takes what is there into `slots`. Fails only if there is nothing or an error before it.
    pub(super) fn receive(&mut self, socket: &UdpSocket, slots: &mut [Slot]) -> io::Result<usize> {
        let parts =
            self.headers.iter_mut().zip(&mut self.vectors).zip(&mut self.names).zip(&mut self.controls);
        for ((((header, vector), name), control), slot) in parts.zip(slots.iter_mut()) {
            vector.0.iov_base = slot.buffer.as_mut_ptr().cast();
            vector.0.iov_len = slot.buffer.len();
            let message = &mut header.0.msg_hdr;
            message.msg_name = name.0.as_mut_ptr().cast();
            message.msg_namelen = NAME_BYTES_U32;
            message.msg_iov = &raw mut vector.0;
            message.msg_iovlen = 1;
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL_BYTES;
            message.msg_flags = 0;
        }
        let count = slots.len().min(self.headers.len());
        let length = u32::try_from(count).unwrap_or(0);
        // SAFETY: `count` headers exist, and each was just pointed at a name, a vector with a buffer, and a control
        // buffer of the lengths it says, all of which `self` and `slots` keep where they are until the call is over.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr().cast(),
                length,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        let parts = self.headers.iter().zip(&self.names).zip(&self.controls);
        for (((header, name), control), slot) in parts.zip(slots).take(received) {
            slot.length = usize::try_from(header.0.msg_len).unwrap_or(0).min(slot.buffer.len());
            slot.from = name.read();
            (slot.segment, slot.to, slot.lost) = (0, None, None);
            control.read(header.0.msg_hdr.msg_controllen, slot);
        }
        Ok(received)
    }
}

/// What `sendmmsg` is told.
#[derive(Debug)]
pub(super) struct SendHeaders {
    headers: Vec<Header>,
    vectors: Vec<Vector>,
    names: Vec<Name>,
    controls: Vec<Control>,
}

impl SendHeaders {
    /// For this many groups, and a datagram of one that has to go in pieces.
    pub(super) fn new(groups: usize) -> Self {
        Self {
            headers: vec![Header::EMPTY; groups + 1],
            vectors: vec![Vector::EMPTY; groups + 1],
            names: vec![Name::EMPTY; groups + 1],
            controls: vec![Control::EMPTY; groups + 1],
        }
    }

    /// Sends groups by one socket; `done` hears what became of each.
    pub(super) fn send<K>(
        &mut self,
        socket: &UdpSocket,
        groups: &[Group<K>],
        arena: &[u8],
        refusals: &mut Refusals,
        done: &mut impl FnMut(Outcome),
    ) {
        if let [single] = groups
            && single.count == 1
            && single.from.is_none()
        {
            // The shortest way through the kernel.
            let sent = insist(|| socket.send_to(single.bytes(arena), single.to));
            return done(single.outcome(sent.map(drop)));
        }
        for (index, group) in groups.iter().enumerate() {
            let segment = (group.count > 1).then_some(group.segment);
            self.prepare(index, group.bytes(arena), group.to, group.from, segment);
        }
        let mut rest = groups;
        while let Some((first, others)) = rest.split_first() {
            match self.transmit(socket, groups.len() - rest.len(), rest.len(), arena) {
                Ok(count) if count > 0 => {
                    let (gone, left) = rest.split_at(count.min(rest.len()));
                    gone.iter().for_each(|group| done(group.outcome(Ok(()))));
                    rest = left;
                }
                sent => {
                    rest = others;
                    match sent {
                        Err(error) if first.count > 1 && is_about_segments(&error) => {
                            refusals.insert(first.to);
                            self.send_in_pieces(socket, first, arena, done);
                        }
                        Err(error) => done(first.outcome(Err(error))),
                        Ok(_) => done(first.outcome(Err(io::ErrorKind::WouldBlock.into()))),
                    }
                }
            }
        }
    }

    /// What the path does not take as one.
    fn send_in_pieces<K>(
        &mut self,
        socket: &UdpSocket,
        group: &Group<K>,
        arena: &[u8],
        done: &mut impl FnMut(Outcome),
    ) {
        let spare = self.headers.len().saturating_sub(1);
        for datagram in group.datagrams(arena) {
            self.prepare(spare, datagram, group.to, group.from, None);
            let sent = self.transmit(socket, spare, 1, arena).map(drop);
            done(group.outcome_of_one(datagram.len(), sent));
        }
    }

    fn prepare(
        &mut self,
        index: usize,
        bytes: &[u8],
        to: SocketAddr,
        from: Option<IpAddr>,
        segment: Option<usize>,
    ) {
        let Some(header) = self.headers.get_mut(index) else { return };
        let Some(vector) = self.vectors.get_mut(index) else { return };
        let Some(name) = self.names.get_mut(index) else { return };
        let Some(control) = self.controls.get_mut(index) else { return };
        vector.0.iov_base = bytes.as_ptr().cast_mut().cast();
        vector.0.iov_len = bytes.len();
        let message = &mut header.0.msg_hdr;
        message.msg_namelen = name.write(to);
        message.msg_name = name.0.as_mut_ptr().cast();
        message.msg_iov = &raw mut vector.0;
        message.msg_iovlen = 1;
        message.msg_controllen = control.write(from, segment);
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_flags = 0;
    }

    /// Sends prepared messages. `_arena` is what they point into.
    fn transmit(
        &mut self,
        socket: &UdpSocket,
        begin: usize,
        count: usize,
        _arena: &[u8],
    ) -> io::Result<usize> {
        let headers = self.headers.get_mut(begin..begin + count).unwrap_or_default();
        let length = u32::try_from(headers.len()).unwrap_or(0);
        // SAFETY: every header of the slice was prepared, so that it points at a name, a vector, and a control buffer of
        // `self`, and the vector at bytes of the arena that the caller borrows until the call is over. The kernel
        // writes to nothing but `msg_len`.
        let mut send = || unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr().cast(), length, libc::MSG_DONTWAIT)
        };
        insist(|| usize::try_from(send()).map_err(|_| io::Error::last_os_error()))
    }
}

/// Lets a socket hand out bursts as one message, and say what it lost. Old kernels know neither; nothing depends on it.
pub(super) fn prepare_socket(socket: &impl AsFd) {
    switch_on(socket, libc::SOL_UDP, libc::UDP_GRO);
    switch_on(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL);
}

/// Lets a socket hand out one datagram a time again.
pub(super) fn unprepare_socket(socket: &impl AsFd) {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 0);
}

/// Lets a socket say which of our addresses a datagram came to.
pub(super) fn tell_destination(socket: &impl AsFd, is_ipv4: bool) {
    match is_ipv4 {
        true => switch_on(socket, libc::IPPROTO_IP, libc::IP_PKTINFO),
        false => switch_on(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    }
}

/// Gives free memory back to the system. Takes milliseconds where there is much of it.
pub(super) fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and is safe beside other threads' allocations.
    let _ = unsafe { libc::malloc_trim(0) };
}

fn switch_on(socket: &impl AsFd, level: i32, option: i32) {
    set_option(socket, level, option, 1);
}

fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) {
    let length = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(0);
    // SAFETY: the pointer is to an integer of `length` bytes, which outlives the call.
    let _ = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), length)
    };
}

/// The kernel cannot cut it up here: the path is too narrow, or its device does no checksums.
fn is_about_segments(error: &io::Error) -> bool {
    [libc::EMSGSIZE, libc::EIO, libc::EINVAL].map(Some).contains(&error.raw_os_error())
}

/// `struct mmsghdr`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Header(libc::mmsghdr);

impl Header {
    const EMPTY: Self = Self(libc::mmsghdr {
        msg_hdr: libc::msghdr {
            msg_name: ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: ptr::null_mut(),
            msg_iovlen: 0,
            msg_control: ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        },
        msg_len: 0,
    });
}

// SAFETY: its pointers are set anew before every call that follows them, by the thread that makes the call.
unsafe impl Send for Header {}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Header")
    }
}

/// `struct iovec`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Vector(libc::iovec);

impl Vector {
    const EMPTY: Self = Self(libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 });
}

// SAFETY: as for `Header`.
unsafe impl Send for Vector {}

impl std::fmt::Debug for Vector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vector")
    }
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; NAME_BYTES]);

impl Name {
    const EMPTY: Self = Self([0; NAME_BYTES]);

    fn read(&self) -> SocketAddr {
        let port = u16::from_be_bytes(self.field(2));
        if i32::from(u16::from_ne_bytes(self.field(0))) == libc::AF_INET6 {
            let flow = u32::from_ne_bytes(self.field(4));
            let ip = Ipv6Addr::from(self.field::<16>(8));
            SocketAddrV6::new(ip, port, flow, u32::from_ne_bytes(self.field(24))).into()
        } else {
            SocketAddrV4::new(Ipv4Addr::from(self.field::<4>(4)), port).into()
        }
    }

    /// Returns how much of it counts.
    fn write(&mut self, address: SocketAddr) -> u32 {
        match address {
            SocketAddr::V4(v4) => {
                self.set(0, family(libc::AF_INET).to_ne_bytes());
                self.set(2, v4.port().to_be_bytes());
                self.set(4, v4.ip().octets());
                self.set(8, [0; 8]);
                16
            }
            SocketAddr::V6(v6) => {
                self.set(0, family(libc::AF_INET6).to_ne_bytes());
                self.set(2, v6.port().to_be_bytes());
                self.set(4, v6.flowinfo().to_ne_bytes());
                self.set(8, v6.ip().octets());
                self.set(24, v6.scope_id().to_ne_bytes());
                NAME_BYTES_U32
            }
        }
    }

    fn field<const N: usize>(&self, at: usize) -> [u8; N] {
        field(&self.0, at)
    }

    fn set<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        set(&mut self.0, at, bytes);
    }
}

/// Control messages, one after the other: a `struct cmsghdr`, data, and padding to eight bytes each.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

impl Control {
    const EMPTY: Self = Self([0; CONTROL_BYTES]);

    /// Reads what the kernel wrote, `length` bytes of it.
    fn read(&self, length: usize, slot: &mut Slot) {
        let mut rest = self.0.get(..length).unwrap_or_default();
        while rest.len() >= CMSG_HEADER {
            let (claimed, level, kind) = control_header(rest);
            let Some(data) = rest.get(CMSG_HEADER..claimed) else { return };
            match (level, kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    slot.segment = usize::try_from(i32::from_ne_bytes(field(data, 0))).unwrap_or(0);
                }
                (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                    slot.lost = Some(u32::from_ne_bytes(field(data, 0)));
                }
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let at = offset_of!(libc::in_pktinfo, ipi_spec_dst);
                    slot.to = Some(Ipv4Addr::from(field::<4>(data, at)).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let at = offset_of!(libc::in6_pktinfo, ipi6_addr);
                    slot.to = Some(Ipv6Addr::from(field::<16>(data, at)).into());
                }
                _ => {}
            }
            rest = rest.get(claimed.next_multiple_of(CMSG_ALIGN)..).unwrap_or_default();
        }
    }

    /// Returns how much of it counts.
    fn write(&mut self, from: Option<IpAddr>, segment: Option<usize>) -> usize {
        let mut end = 0;
        if let Some(segment) = segment.and_then(|segment| u16::try_from(segment).ok()) {
            end = self.append(end, libc::SOL_UDP, libc::UDP_SEGMENT, segment.to_ne_bytes());
        }
        match from {
            Some(IpAddr::V4(ip)) => {
                let mut info = [0; size_of::<libc::in_pktinfo>()];
                set(&mut info, offset_of!(libc::in_pktinfo, ipi_spec_dst), ip.octets());
                end = self.append(end, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            Some(IpAddr::V6(ip)) => {
                let mut info = [0; size_of::<libc::in6_pktinfo>()];
                set(&mut info, offset_of!(libc::in6_pktinfo, ipi6_addr), ip.octets());
                end = self.append(end, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            None => {}
        }
        end
    }

    fn append<const N: usize>(&mut self, at: usize, level: i32, kind: i32, data: [u8; N]) -> usize {
        let length = CMSG_HEADER + N;
        set(&mut self.0, at + offset_of!(libc::cmsghdr, cmsg_len), length.to_ne_bytes());
        set(&mut self.0, at + offset_of!(libc::cmsghdr, cmsg_level), level.to_ne_bytes());
        set(&mut self.0, at + offset_of!(libc::cmsghdr, cmsg_type), kind.to_ne_bytes());
        set(&mut self.0, at + CMSG_HEADER, data);
        at + length.next_multiple_of(CMSG_ALIGN)
    }
}

fn family(family: i32) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or_default()
}

/// How long a control message is, at what level, and of which kind.
fn control_header(bytes: &[u8]) -> (usize, i32, i32) {
    (
        usize::from_ne_bytes(field(bytes, offset_of!(libc::cmsghdr, cmsg_len))),
        i32::from_ne_bytes(field(bytes, offset_of!(libc::cmsghdr, cmsg_level))),
        i32::from_ne_bytes(field(bytes, offset_of!(libc::cmsghdr, cmsg_type))),
    )
}

/// Zeros where there is less.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn set<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(room) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *room = value;
    }
}

const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
const NAME_BYTES_U32: u32 = 28;
const _: () = assert!(NAME_BYTES == 28);
const CMSG_HEADER: usize = size_of::<libc::cmsghdr>();
const CMSG_ALIGN: usize = size_of::<usize>();
/// A burst's cut, a loss and an address.
const CONTROL_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::batch::Plane;
    use crate::io::outbox::{Envelope, Outbox, Purpose};

    #[test]
    fn addresses_survive_the_round_trip() {
        for text in ["192.0.2.1:5000", "[2001:db8::7]:1", "[fe80::1%3]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = Name([0xff; NAME_BYTES]);
            name.write(address);
            assert_eq!(name.read(), address);
        }
    }

    #[test]
    fn what_is_said_to_the_kernel_is_understood_from_it() {
        for ip in ["192.0.2.1", "2001:db8::7"] {
            let ip: IpAddr = ip.parse().unwrap();
            let mut control = Control::EMPTY;
            let length = control.write(Some(ip), Some(1200));
            let mut slot = Slot::empty();
            control.read(length, &mut slot);
            assert_eq!(slot.to, Some(ip));
        }
        let mut control = Control::EMPTY;
        let end = control.append(0, libc::SOL_UDP, libc::UDP_GRO, 1200i32.to_ne_bytes());
        let end = control.append(end, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 7u32.to_ne_bytes());
        let mut slot = Slot::empty();
        control.read(end, &mut slot);
        assert_eq!((slot.segment, slot.lost), (1200, Some(7)));
        control.read(CMSG_HEADER + 2, &mut slot);
    }

    /// Without checksums the kernel takes no groups, as on a device that makes none.
    #[test]
    fn a_path_without_groups_gets_the_same_datagrams_one_by_one() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        switch_on(&sender, libc::SOL_SOCKET, libc::SO_NO_CHECK);
        let (to, purpose) = (receiver.local_addr().unwrap(), Purpose::ToPeer);
        for from in [None, Some(IpAddr::from([127, 0, 0, 1]))] {
            let mut outbox = Outbox::new(Plane::Batched);
            for data in [b"first", b"other", b"third"] {
                outbox.push(Envelope { via: (), to, from, purpose }, b"h", data, 5);
            }
            let mut outcomes = Vec::new();
            outbox.flush(
                |()| Some(&sender),
                |outcome| outcomes.push((outcome.datagrams, outcome.data_bytes, outcome.sent.is_ok())),
            );
            assert_eq!(outcomes, [(1, 5, true); 3], "in pieces");
            for expected in [b"hfirst", b"hother", b"hthird"] {
                let mut buffer = [0; 16];
                assert_eq!(receiver.recv(&mut buffer).unwrap(), 6);
                assert_eq!(&buffer[..6], expected);
            }
        }
    }
}
