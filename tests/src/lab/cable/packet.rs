//! A socket that takes every frame from an interface and puts frames on it, checksums and segments left to the far end:
//! the two calls for which no crate at hand has a safe face.
#![expect(
    unsafe_code,
    reason = "binding to an interface and PACKET_VNET_HDR have no safe face; see each block"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc;
use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// One end of a cable, bound to an interface.
#[derive(Debug)]
pub(super) struct Packets(OwnedFd);

/// The longest frame: 64 KiB of a segment to be cut, its Ethernet header, and the kernel's header before it.
pub(super) const LONGEST: usize = 65_536 + 18 + HEADER;
/// `struct virtio_net_hdr`, which stands before each frame.
pub(super) const HEADER: usize = 10;

impl Packets {
    /// Opens one on `interface` of the network in which the calling thread is.
    pub(super) fn open(interface: &str) -> Result<Self> {
        let every = ETH_P_ALL.to_be();
        let protocol = Protocol::from_raw(u32::from(every).try_into().context("a protocol of zero")?);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol))
            .context("opening a packet socket")?;
        let index = name_to_index(&socket, interface).with_context(|| format!("looking for {interface}"))?;
        let packets = Self(socket);
        packets.set(libc::PACKET_VNET_HDR, "PACKET_VNET_HDR")?;
        packets.bind(every, i32::try_from(index).context("the interface's index")?)?;
        // As much as the kernel gives: a burst must not find it full while this process waits for a processor.
        for set in [sockopt::set_socket_recv_buffer_size, sockopt::set_socket_send_buffer_size] {
            set(&packets, BUFFER).context("asking for larger buffers")?;
        }
        Ok(packets)
    }

    /// The next frame with its header, if there is one.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        match rustix::net::recv(self, &mut *buffer, RecvFlags::empty()) {
            Ok((length, _)) => Ok(buffer.get(..length)),
            // The interface is down, as one end of a cable may be.
            Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => Ok(None),
            Err(error) => Err(error).context("taking a frame"),
        }
    }

    /// Puts a frame with its header on the interface; false where the interface does not take it.
    pub(super) fn send(&self, frame: &[u8]) -> bool {
        rustix::net::send(self, frame, SendFlags::empty()).is_ok()
    }

    fn set(&self, option: libc::c_int, name: &str) -> Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the descriptor is open, and the kernel reads the four bytes of `on`, which outlive the call.
        let code = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                LENGTH_OF_INT,
            )
        };
        succeeded(code).with_context(|| format!("setting {name}"))
    }

    fn bind(&self, protocol: u16, index: i32) -> Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET.unsigned_abs().try_into().context("the family's number")?,
            sll_protocol: protocol,
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = libc::socklen_t::try_from(size_of_val(&address)).context("an address's length")?;
        // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `address`, which is that long, whole
        // and outlives the call.
        let code = unsafe { libc::bind(self.0.as_raw_fd(), (&raw const address).cast(), length) };
        succeeded(code).context("binding to an interface")
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

const ETH_P_ALL: u16 = 3;
const LENGTH_OF_INT: libc::socklen_t = 4;
const BUFFER: usize = 4 << 20;

fn succeeded(code: libc::c_int) -> std::io::Result<()> {
    if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
