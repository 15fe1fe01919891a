//! Receiving and sending datagrams with what every system has: one call each. The twin of `linux.rs`, and what that is
//! measured by.

use std::io;
use std::net::UdpSocket;

use super::batch::Slot;
use super::outbox::{Group, Outcome};

/// Takes what is there into `slots`. Fails only if the first call does.
pub(super) fn receive(socket: &UdpSocket, slots: &mut [Slot]) -> io::Result<usize> {
    let mut filled = 0;
    for slot in slots {
        match socket.recv_from(&mut slot.buffer) {
            Ok((length, from)) => (slot.length, slot.from) = (length, from),
            Err(error) if filled == 0 => return Err(error),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => {}
        }
        (slot.segment, slot.to, slot.lost) = (0, None, None);
        filled += 1;
    }
    Ok(filled)
}

/// Sends the datagrams of one group; `done` hears of each.
pub(super) fn send_each<K>(
    socket: &UdpSocket,
    group: &Group<K>,
    arena: &[u8],
    done: &mut impl FnMut(Outcome),
) {
    for datagram in group.datagrams(arena) {
        let sent = socket.send_to(datagram, group.to).map(drop);
        done(group.outcome_of_one(datagram.len(), sent));
    }
}
