//! A map for a handful of entries: a sorted list that grows by one, and no list at all for a single entry.
//!
//! There are several in every allocation, nearly always with one entry, which then is where its map is: data that is
//! relayed finds it without another step through memory. A tree's smallest node has room for eleven.

/// Entries by key.
#[derive(Debug)]
pub(crate) struct SortedMap<K, V> {
    entries: Entries<K, V>,
}

#[derive(Debug)]
enum Entries<K, V> {
    One((K, V)),
    /// None, or two and more. Sorted.
    Other(Vec<(K, V)>),
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self { entries: Entries::Other(Vec::new()) }
    }
}

impl<K: Ord + Copy, V> SortedMap<K, V> {
    /// Adds or replaces. Returns what was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = match self.find(key) {
            Ok(at) => {
                return self.as_mut_slice().get_mut(at).map(|(_, before)| std::mem::replace(before, value));
            }
            Err(at) => at,
        };
        self.entries = match std::mem::take(self).entries {
            Entries::Other(entries) if entries.is_empty() => Entries::One((key, value)),
            Entries::Other(mut entries) => {
                entries.reserve_exact(1);
                entries.insert(at, (key, value));
                Entries::Other(entries)
            }
            Entries::One(first) if at == 0 => Entries::Other(vec![(key, value), first]),
            Entries::One(first) => Entries::Other(vec![first, (key, value)]),
        };
        None
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let at = self.find(key).ok()?;
        let ((_, removed), rest) = match std::mem::take(self).entries {
            Entries::One(entry) => (entry, Entries::Other(Vec::new())),
            Entries::Other(mut entries) => {
                let removed = entries.remove(at);
                let last = if entries.len() == 1 { entries.pop() } else { None };
                (removed, last.map_or_else(|| Entries::Other(entries), Entries::One))
            }
        };
        self.entries = rest;
        Some(removed)
    }

    /// What a key stands for.
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        match &self.entries {
            Entries::One((known, value)) => (*known == key).then_some(value),
            Entries::Other(entries) => entries.get(self.find(key).ok()?).map(|(_, value)| value),
        }
    }

    /// All of them, in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &V)> {
        self.as_slice().iter().map(|(key, value)| (*key, value))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    fn find(&self, key: K) -> Result<usize, usize> {
        self.as_slice().binary_search_by_key(&key, |(key, _)| *key)
    }

    fn as_slice(&self) -> &[(K, V)] {
        match &self.entries {
            Entries::One(entry) => std::slice::from_ref(entry),
            Entries::Other(entries) => entries,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [(K, V)] {
        match &mut self.entries {
            Entries::One(entry) => std::slice::from_mut(entry),
            Entries::Other(entries) => entries,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(steps: Vec<(bool, u8, u16)>) {
            let (mut map, mut model) = (SortedMap::default(), BTreeMap::new());
            for (inserts, key, value) in steps {
                let key = key % 16;
                if inserts {
                    prop_assert_eq!(map.insert(key, value), model.insert(key, value));
                } else {
                    prop_assert_eq!(map.remove(key), model.remove(&key));
                }
                prop_assert_eq!(map.get(key), model.get(&key));
                prop_assert!(map.iter().eq(model.iter().map(|(key, value)| (*key, value))));
                prop_assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
            }
        }
    }
}
