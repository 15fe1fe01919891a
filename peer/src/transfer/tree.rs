//! BLAKE3 block by block: a prefix that was verified counts, and is never hashed again.

use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{Hash, Hasher};

use super::BLOCK;

/// The hash of a file that is read from its beginning, or from behind the blocks that are known.
#[derive(Debug)]
pub(super) struct Tree {
    blocks: Vec<ChainingValue>,
    current: Hasher,
    /// Bytes of the current block.
    filled: usize,
}

impl Tree {
    pub(super) fn new(verified: Vec<ChainingValue>) -> Self {
        let mut tree = Self { blocks: verified, current: Hasher::new(), filled: 0 };
        tree.begin_block();
        tree
    }

    fn begin_block(&mut self) {
        self.current = Hasher::new();
        self.current.set_input_offset(self.blocks.len() as u64 * BLOCK as u64);
        self.filled = 0;
    }

    /// Bytes that fit into the current block.
    pub(super) fn room(&self) -> usize {
        BLOCK - self.filled
    }

    /// Bytes that were hashed, and those that were known.
    pub(super) fn length(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK as u64 + self.filled as u64
    }

    /// Of no more bytes than there is room for.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.current.update(bytes);
        self.filled += bytes.len();
    }

    /// The value of the block so far, which is not empty.
    pub(super) fn block(&self) -> ChainingValue {
        self.current.finalize_non_root()
    }

    /// The block is full; the next one begins.
    pub(super) fn end_block(&mut self) -> ChainingValue {
        let value = self.block();
        self.blocks.push(value);
        self.begin_block();
        value
    }

    /// The hash of the whole file, whose last block is the current one.
    pub(super) fn root(mut self) -> Hash {
        if self.blocks.is_empty() {
            return self.current.finalize();
        }
        if self.filled > 0 {
            self.blocks.push(self.block());
        }
        let (left, right) = self.blocks.split_at(left(self.blocks.len()));
        merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash)
    }
}

/// The value of a block at its place in the file.
pub(super) fn block_at(index: usize, bytes: &[u8]) -> ChainingValue {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(index as u64 * BLOCK as u64).update(bytes);
    hasher.finalize_non_root()
}

fn subtree(blocks: &[ChainingValue]) -> ChainingValue {
    match blocks {
        [] => ChainingValue::default(),
        [only] => *only,
        more => {
            let (left, right) = more.split_at(left(more.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

/// Blocks of the left one of two subtrees: the largest power of two that leaves something for the right one.
fn left(blocks: usize) -> usize {
    blocks.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root_from(bytes: &[u8], known: usize) -> Hash {
        let verified =
            bytes.chunks(BLOCK).take(known).enumerate().map(|(index, block)| block_at(index, block));
        let mut tree = Tree::new(verified.collect());
        for block in bytes.chunks(BLOCK).skip(known) {
            for part in block.chunks(50_000) {
                tree.update(part);
            }
            // The last block of a file stays open unless more follows.
            if tree.room() == 0 && tree.length() < bytes.len() as u64 {
                tree.end_block();
            }
        }
        tree.root()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever the length, and however much of it was known.
        #[test]
        fn the_root_is_the_hash_of_the_file(length in 0usize..(9 * BLOCK), known in 0usize..9) {
            let bytes: Vec<u8> = (0..=250u8).cycle().take(length).collect();
            // Never all of it: a file whose last block is known is complete.
            let known = known.min(length.saturating_sub(1) / BLOCK);
            prop_assert_eq!(root_from(&bytes, known), blake3::hash(&bytes));
        }
    }

    #[test]
    fn whole_blocks_need_no_remainder() {
        for blocks in 1..=5 {
            let bytes = vec![7; blocks * BLOCK];
            assert_eq!(root_from(&bytes, blocks - 1), blake3::hash(&bytes));
        }
    }
}
