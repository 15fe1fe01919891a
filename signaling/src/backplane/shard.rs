//! Shards: what a backplane is divided into, so that no lock and no node holds all of it.
//!
//! A room belongs to one shard for ever, and with it everything in it. A session's id begins with its room's shard,
//! so that a session is found by its id alone, without an index over all of them.

use crate::room::{Fresh, RoomKey, Secret, SessionId};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shard(u8);

impl Shard {
    /// One for every value of a byte: enough that no two busy rooms are likely to wait for one another.
    pub(super) const COUNT: usize = 256;

    pub(super) fn all() -> impl Iterator<Item = Self> + Clone {
        (0..=u8::MAX).map(Self)
    }

    pub(super) fn of_room(room: &RoomKey) -> Self {
        // FNV-1a, folded because its upper bytes hardly spread; the same on every node and in every version.
        let hash = room.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash.to_be_bytes().into_iter().fold(0, |folded, byte| folded ^ byte))
    }

    /// What an id says about itself; one that was not made here may say anything, or nothing.
    pub(super) fn of_session(session: &SessionId) -> Option<Self> {
        let digits = session.as_str().get(..2)?;
        u8::from_str_radix(digits, 16).ok().map(Self)
    }

    pub(super) fn index(self) -> usize {
        self.0.into()
    }

    /// An id and a secret of 128 random bits each.
    pub(super) fn fresh(self) -> Fresh {
        let session = format!("{:02x}{:032x}", self.0, rand::random::<u128>());
        Fresh { session: session.as_str().into(), secret: Secret::new(rand::random()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_names_the_shard_that_made_it() {
        for room in ["red", "blue", "", "é"] {
            let shard = Shard::of_room(&room.into());
            let Fresh { session, .. } = shard.fresh();
            assert_eq!(Shard::of_session(&session), Some(shard));
            assert!(session.as_str().len() <= farcall_proto::limits::MAX_ID_CHARS);
        }
    }

    #[test]
    fn a_room_has_the_same_shard_on_every_node() {
        assert_eq!(Shard::of_room(&"demo".into()), Shard(DEMO));
    }

    #[test]
    fn rooms_spread_over_the_shards() {
        let mut rooms = [0; Shard::COUNT];
        for room in 0..10_000 {
            rooms[Shard::of_room(&format!("room-{room}").as_str().into()).index()] += 1;
        }
        let (fewest, most) = (rooms.iter().min().unwrap(), rooms.iter().max().unwrap());
        assert!(*fewest > 10 && *most < 90, "{fewest} to {most}, 39 on average");
    }

    /// Computed outside of this program: the xor of the eight bytes of FNV-1a's 64 bits of "demo".
    const DEMO: u8 = 0x4c;
}
