//! What the network says about datagrams that a socket sent: ICMP errors, which the kernel queues beside the data for whoever
//! asks it to (`IP_RECVERR`).
//!
//! A socket that has asked also fails its next call once for each of them, whatever that call is about: whoever sends must
//! try again.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use super::{
    CMSG_ALIGN, CMSG_HEADER, CONTROL_BYTES, Control, Header, NAME_BYTES_U32, Name, field, set_option,
};
use crate::turn::{IcmpError, PeerAddr};

/// Has the kernel keep errors for a socket, or not.
pub(in crate::io) fn keep_errors(socket: &UdpSocket, are_kept: bool) {
    let is_ipv4 = socket.local_addr().is_ok_and(|at| at.is_ipv4());
    let (level, option) = option(is_ipv4);
    set_option(socket, level, option, i32::from(are_kept));
}

/// Takes the next message out of a socket's queue of errors: the ICMP error in it, if it is one, or `None` once nothing is
/// left.
pub(in crate::io) fn next_error(socket: &UdpSocket) -> Option<Option<IcmpError>> {
    let (mut header, mut name, mut control) = (Header::EMPTY, Name::EMPTY, Control::EMPTY);
    let message = &mut header.0.msg_hdr;
    message.msg_name = name.0.as_mut_ptr().cast();
    message.msg_namelen = NAME_BYTES_U32;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: the header points at a name and a control buffer of the lengths it says, which live until the call is over,
    // and at no vectors: what comes back of the datagram is cut off.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), message, flags) };
    (received >= 0).then(|| read(&name, &control, message.msg_controllen))
}

fn read(name: &Name, control: &Control, length: usize) -> Option<IcmpError> {
    let peer = PeerAddr(name.read());
    let (wanted, origin) = match peer.0.is_ipv4() {
        true => (option(true), libc::SO_EE_ORIGIN_ICMP),
        false => (option(false), libc::SO_EE_ORIGIN_ICMP6),
    };
    let mut rest = control.0.get(..length)?;
    while rest.len() >= CMSG_HEADER {
        let (claimed, level, kind) = super::control_header(rest);
        let data = rest.get(CMSG_HEADER..claimed)?;
        if (level, kind) == wanted {
            // `struct sock_extended_err`: error, origin, type, code, padding, information.
            let [found, kind, code, _] = field::<4>(data, 4);
            let mtu = u32::from_ne_bytes(field(data, 8));
            return (found == origin).then_some(IcmpError { peer, kind, code, mtu });
        }
        rest = rest.get(claimed.next_multiple_of(CMSG_ALIGN)..).unwrap_or_default();
    }
    None
}

fn option(is_ipv4: bool) -> (i32, i32) {
    match is_ipv4 {
        true => (libc::IPPROTO_IP, libc::IP_RECVERR),
        false => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    }
}

/// Sends, and once more if the first attempt met with the network's word on an earlier datagram.
pub(in crate::io) fn insist<T>(mut send: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    match send() {
        Err(error) if is_about_an_earlier_one(&error) => send(),
        sent => sent,
    }
}

/// What the kernel makes of ICMP errors.
fn is_about_an_earlier_one(error: &io::Error) -> bool {
    [
        libc::ECONNREFUSED,
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::EHOSTDOWN,
        libc::ENONET,
        libc::ENOPROTOOPT,
        libc::EOPNOTSUPP,
        libc::EPROTO,
        libc::EACCES,
        libc::EMSGSIZE,
    ]
    .map(Some)
    .contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::clock;

    fn closed_port(ip: &str) -> SocketAddr {
        UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap()
    }

    #[test]
    fn the_network_says_that_nobody_is_there_and_the_next_datagram_goes_all_the_same() {
        for (ip, kind, code) in [("127.0.0.1", 3, 3), ("::1", 1, 4)] {
            let Ok(socket) = UdpSocket::bind((ip, 0)) else { continue };
            let receiver = UdpSocket::bind((ip, 0)).unwrap();
            receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            keep_errors(&socket, true);
            assert_eq!(next_error(&socket), None);
            let nobody = closed_port(ip);
            socket.send_to(b"anybody?", nobody).unwrap();
            insist(|| socket.send_to(b"hello", receiver.local_addr().unwrap())).unwrap();
            assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 5);
            let begun = clock::now();
            let error = loop {
                if let Some(error) = next_error(&socket) {
                    break error.unwrap();
                }
                assert!(begun.elapsed() < Duration::from_secs(20), "no error in time");
            };
            assert_eq!((error.peer, error.kind, error.code), (PeerAddr(nobody), kind, code));
            keep_errors(&socket, false);
            socket.send_to(b"anybody?", nobody).unwrap();
            socket.send_to(b"hello", receiver.local_addr().unwrap()).unwrap();
            assert_eq!((receiver.recv(&mut [0; 8]).unwrap(), next_error(&socket)), (5, None));
        }
    }
}
