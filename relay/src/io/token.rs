//! Which socket an event is about, as mio carries it.

use mio::Token;

use crate::turn::AllocationId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Waker,
    UdpListener(usize),
    TcpListener(usize),
    Relay(AllocationId),
    Stream(usize),
    DtlsListener(usize),
    Alarm,
    Acceptor(AllocationId),
    Connection(usize),
}

impl From<Source> for Token {
    fn from(source: Source) -> Self {
        let (kind, index) = match source {
            Source::Waker => (0, 0),
            Source::UdpListener(index) => (1, index),
            Source::TcpListener(index) => (2, index),
            Source::Relay(AllocationId(index)) => (3, index),
            Source::Stream(index) => (4, index),
            Source::DtlsListener(index) => (5, index),
            Source::Alarm => (6, 0),
            Source::Acceptor(AllocationId(index)) => (7, index),
            Source::Connection(index) => (8, index),
        };
        Self(index << KIND_BITS | kind)
    }
}

impl From<Token> for Source {
    fn from(Token(bits): Token) -> Self {
        let index = bits >> KIND_BITS;
        match bits & ((1 << KIND_BITS) - 1) {
            1 => Self::UdpListener(index),
            2 => Self::TcpListener(index),
            3 => Self::Relay(AllocationId(index)),
            4 => Self::Stream(index),
            5 => Self::DtlsListener(index),
            6 => Self::Alarm,
            7 => Self::Acceptor(AllocationId(index)),
            8 => Self::Connection(index),
            _ => Self::Waker,
        }
    }
}

const KIND_BITS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_survives_the_round_trip() {
        for index in [0, 1, 77, usize::MAX >> KIND_BITS] {
            for source in [
                Source::UdpListener(index),
                Source::TcpListener(index),
                Source::Relay(AllocationId(index)),
                Source::Stream(index),
                Source::DtlsListener(index),
                Source::Acceptor(AllocationId(index)),
                Source::Connection(index),
            ] {
                assert_eq!(Source::from(Token::from(source)), source);
            }
        }
        for source in [Source::Waker, Source::Alarm] {
            assert_eq!(Source::from(Token::from(source)), source);
        }
    }
}
