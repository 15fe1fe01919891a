//! The peers that were met before, as ssh has its known hosts: one a line, `KEY SERVER ROOM`.

use std::fmt;

use super::PublicKey;

/// Who was met in which room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KnownPeers {
    /// In the order of the file, comments and empty lines among them.
    lines: Vec<Line>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Peer(KnownPeer),
    Comment(String),
}

/// Who was met in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// By this key.
    pub key: PublicKey,
    /// Through this signaling server.
    pub server: String,
    /// In this room.
    pub room: String,
}

impl KnownPeers {
    /// Reads a file of them. Lines that begin with `#` are comments.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut lines = Vec::new();
        for (number, text) in text.lines().enumerate() {
            if text.trim().is_empty() || text.trim_start().starts_with('#') {
                lines.push(Line::Comment(text.to_owned()));
                continue;
            }
            let peer = peer(text).ok_or(ParseError { line: number + 1 })?;
            lines.push(Line::Peer(peer));
        }
        Ok(Self { lines })
    }

    /// All of them.
    pub fn peers(&self) -> impl Iterator<Item = &KnownPeer> {
        self.lines.iter().filter_map(|line| match line {
            Line::Peer(peer) => Some(peer),
            Line::Comment(_) => None,
        })
    }

    /// Whom to expect there.
    #[must_use]
    pub fn key_of(&self, server: &str, room: &str) -> Option<PublicKey> {
        let server = normal(server);
        self.peers().find(|peer| peer.server == server && peer.room == room).map(|peer| peer.key)
    }

    /// Expects this one there from now on.
    pub fn remember(&mut self, server: &str, room: &str, key: PublicKey) {
        let server = normal(server);
        for line in &mut self.lines {
            if let Line::Peer(peer) = line
                && peer.server == server
                && peer.room == room
            {
                peer.key = key;
                return;
            }
        }
        self.lines.push(Line::Peer(KnownPeer { key, server, room: room.to_owned() }));
    }

    /// Expects nobody in this room any more, whatever the server; says how many were forgotten.
    pub fn forget(&mut self, room: &str) -> usize {
        let before = self.lines.len();
        self.lines.retain(|line| !matches!(line, Line::Peer(peer) if peer.room == room));
        before - self.lines.len()
    }
}

impl fmt::Display for KnownPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.lines {
            match line {
                Line::Peer(KnownPeer { key, server, room }) => {
                    writeln!(f, "{key} {server} {}", room.escape_debug())?;
                }
                Line::Comment(text) => writeln!(f, "{text}")?,
            }
        }
        Ok(())
    }
}

/// A line that is neither a peer nor a comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a key, a server and a room")]
pub struct ParseError {
    line: usize,
}

fn peer(text: &str) -> Option<KnownPeer> {
    let (key, rest) = text.split_once(' ')?;
    let (server, room) = rest.split_once(' ')?;
    Some(KnownPeer { key: key.parse().ok()?, server: server.to_owned(), room: unescape(room)? })
}

/// The same server, however its URL is written.
fn normal(server: &str) -> String {
    server.trim_end_matches('/').to_lowercase()
}

/// What [`str::escape_debug`] did to a room key, which may hold any character.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        if char != '\\' {
            plain.push(char);
            continue;
        }
        plain.push(match chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            'u' => {
                let code: String = chars.by_ref().skip(1).take_while(|char| *char != '}').collect();
                char::from_u32(u32::from_str_radix(&code, 16).ok()?)?
            }
            other @ ('\\' | '\'' | '"') => other,
            _ => return None,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Identity;
    use super::*;

    #[test]
    fn a_room_has_one_peer_and_comments_stay() {
        let (one, other) = (Identity::generate().0.public_key(), Identity::generate().0.public_key());
        let text = format!("# my robots\n\n{one} http://a:1 the robot\n");
        let mut known = KnownPeers::parse(&text).unwrap();
        assert_eq!(known.key_of("HTTP://a:1/", "the robot"), Some(one));
        assert_eq!(known.key_of("http://b:1", "the robot"), None);
        known.remember("http://a:1", "the robot", other);
        assert_eq!(known.to_string(), format!("# my robots\n\n{other} http://a:1 the robot\n"));
        assert_eq!((known.forget("the robot"), known.forget("the robot")), (1, 0));
        assert_eq!(known.to_string(), "# my robots\n\n");
    }

    #[test]
    fn a_line_that_is_neither_is_named() {
        for bad in ["hello", "ed25519:AAAA http://a room", "# fine\nnot fine"] {
            let line = bad.lines().count();
            assert_eq!(KnownPeers::parse(bad), Err(ParseError { line }), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_room_is_found_again(room in "\\PC{1,64}|[\\x00-\\x7f]{1,64}", other in "[a-z]{1,5}") {
            let (key, server) = (Identity::generate().0.public_key(), "http://server:1");
            let mut known = KnownPeers::default();
            known.remember(server, &room, key);
            known.remember(server, &format!("{room}{other}"), key);
            let read = KnownPeers::parse(&known.to_string()).unwrap();
            prop_assert_eq!(read.key_of(server, &room), Some(key));
            prop_assert_eq!(read, known);
        }

        #[test]
        fn no_file_makes_it_panic(text in "\\PC{0,200}|[\\x00-\\x7f]{0,200}") {
            let _ = KnownPeers::parse(&text);
            let _ = unescape(&text);
        }
    }
}
