//! Sources that may have more for us, each once, first come first served.
//!
//! The poll says once only that a socket has become readable, so whoever stops before a socket is empty must remember it.

use std::collections::VecDeque;

use mio::Token;

use super::token::Source;

/// The queue, and a bit for each source in it.
#[derive(Debug, Default)]
pub(super) struct Ready {
    queue: VecDeque<Source>,
    queued: Vec<u64>,
}

impl Ready {
    /// Adds a source, unless it waits already.
    pub(super) fn insert(&mut self, source: Source) {
        let (word, bit) = position(source);
        if self.queued.len() <= word {
            self.queued.resize(word + 1, 0);
        }
        if let Some(queued) = self.queued.get_mut(word)
            && *queued & bit == 0
        {
            *queued |= bit;
            self.queue.push_back(source);
        }
    }

    /// Takes the one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<Source> {
        let source = self.queue.pop_front()?;
        let (word, bit) = position(source);
        if let Some(queued) = self.queued.get_mut(word) {
            *queued &= !bit;
        }
        Some(source)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

fn position(source: Source) -> (usize, u64) {
    let Token(token) = source.into();
    (token / 64, 1 << (token % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::AllocationId;

    #[test]
    fn a_source_waits_once_and_in_its_turn() {
        let mut ready = Ready::default();
        let sources = [Source::Relay(AllocationId(700)), Source::UdpListener(0), Source::Waker];
        sources.into_iter().chain(sources).for_each(|source| ready.insert(source));
        assert_eq!(ready.len(), 3);
        assert_eq!(ready.pop(), Some(sources[0]));
        ready.insert(sources[0]);
        assert_eq!(
            [ready.pop(), ready.pop(), ready.pop(), ready.pop()],
            [Some(sources[1]), Some(sources[2]), Some(sources[0]), None]
        );
        assert!(ready.is_empty());
    }
}
