//! The Merkle tree of RFC 6962 (§2.1): is this record in the log, and does today's log extend yesterday's?
//!
//! Leaf hash SHA-256(0x00 ‖ leaf), node hash SHA-256(0x01 ‖ left ‖ right), the empty tree SHA-256 of nothing. The hash
//! at `(level, index)` covers the leaves `index·2^level` up to `(index+1)·2^level`; only complete subtrees have one,
//! so it never changes and can be stored once. All trees, past and present, are made of those hashes.
//!
//! The sequencer appends with [`append`] and stores the returned nodes; proofs read them back through [`HashReader`].
//! `verify` walks a log with a [`Frontier`]. Verification of proofs follows RFC 9162 §2.1.3.2 and §2.1.4.2. Absent:
//! storage; how nodes travel (`tile`); what a leaf holds (`record`).

use crate::hash::{Hash, sha256};

/// Largest tree: C2SP tile levels go further, but sizes must leave room for arithmetic on them.
pub const SIZE_MAX: u64 = 1 << 62;
/// Hashes in the longest proof of a tree of [`SIZE_MAX`]: one per level, and one more for consistency.
pub const PROOF_HASHES_MAX: usize = 63;

/// Gives back the hashes of complete subtrees that were stored.
pub trait HashReader {
    /// The hash at `(level, index)`, if it is stored.
    fn hash(&self, level: u8, index: u64) -> Option<Hash>;
}

impl<F: Fn(u8, u64) -> Option<Hash>> HashReader for F {
    fn hash(&self, level: u8, index: u64) -> Option<Hash> {
        self(level, index)
    }
}

/// The hash of one complete subtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Height above the leaves.
    pub level: u8,
    /// Position among the subtrees of that height.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// Why a tree operation is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The reader lacks a hash that a tree of this size has.
    #[error("the hash at level {level}, index {index} is missing")]
    MissingHash {
        /// Height above the leaves.
        level: u8,
        /// Position in that level.
        index: u64,
    },
    /// No such leaf, no such range, or a tree beyond [`SIZE_MAX`].
    #[error("the tree has no such leaf or size")]
    OutOfRange,
}

/// The hash of a leaf with these bytes.
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    sha256(&[&[0x00], leaf])
}

/// The hash over two subtrees.
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[0x01], left, right])
}

/// The root of the empty tree.
#[must_use]
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// The right edge of a tree: the complete subtrees it falls into, tallest first. All that appending needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// One hash per bit set in `size`, from the highest bit to the lowest.
    hashes: Vec<Hash>,
}

impl Frontier {
    /// Of the empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of the first `size` leaves of a stored tree.
    pub fn at(reader: &impl HashReader, size: u64) -> Result<Self, TreeError> {
        if size > SIZE_MAX {
            return Err(TreeError::OutOfRange);
        }
        let levels = (0..=62_u8).rev().filter(|level| size >> level & 1 == 1);
        let hashes = levels.map(|level| stored(reader, level, (size >> level) - 1)).collect::<Result<_, _>>()?;
        Ok(Self { size, hashes })
    }

    /// Number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; `completed` receives every subtree that this completes, the leaf itself first.
    pub fn push(&mut self, leaf: Hash, completed: &mut Vec<Node>) -> Result<(), TreeError> {
        if self.size >= SIZE_MAX {
            return Err(TreeError::OutOfRange);
        }
        let (mut hash, mut index, mut level) = (leaf, self.size, 0);
        completed.push(Node { level, index, hash });
        while index & 1 == 1 {
            let left = self.hashes.pop().ok_or(TreeError::MissingHash { level, index: index - 1 })?;
            hash = node_hash(&left, &hash);
            (index, level) = (index >> 1, level + 1);
            completed.push(Node { level, index, hash });
        }
        self.hashes.push(hash);
        self.size += 1;
        Ok(())
    }

    /// Adds the `2^level` leaves of a complete subtree of which only the hash is known. The size must be a multiple of
    /// that many.
    pub fn push_subtree(&mut self, level: u8, hash: Hash) -> Result<(), TreeError> {
        let leaves = 1_u64.checked_shl(u32::from(level)).filter(|leaves| *leaves <= SIZE_MAX);
        let leaves = leaves.filter(|leaves| self.size.is_multiple_of(*leaves)).ok_or(TreeError::OutOfRange)?;
        let size = self.size.checked_add(leaves).filter(|size| *size <= SIZE_MAX).ok_or(TreeError::OutOfRange)?;
        let (mut hash, mut index, mut level) = (hash, self.size >> level, level);
        while index & 1 == 1 {
            let left = self.hashes.pop().ok_or(TreeError::MissingHash { level, index: index - 1 })?;
            hash = node_hash(&left, &hash);
            (index, level) = (index >> 1, level + 1);
        }
        self.hashes.push(hash);
        self.size = size;
        Ok(())
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let join = |right: Hash, left: &Hash| node_hash(left, &right);
        match self.hashes.split_last() {
            Some((last, rest)) => rest.iter().rev().fold(*last, join),
            None => empty_root(),
        }
    }
}

/// What an append changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The new size.
    pub size: u64,
    /// The new root.
    pub root: Hash,
    /// Every subtree completed: all that has to be stored.
    pub nodes: Vec<Node>,
}

/// Appends leaf hashes to the stored tree of `old_size` leaves; the caller stores the nodes it gets back.
pub fn append(reader: &impl HashReader, old_size: u64, leaves: &[Hash]) -> Result<Appended, TreeError> {
    let mut frontier = Frontier::at(reader, old_size)?;
    let mut nodes = Vec::with_capacity(leaves.len().saturating_mul(2));
    for leaf in leaves {
        frontier.push(*leaf, &mut nodes)?;
    }
    Ok(Appended { size: frontier.size(), root: frontier.root(), nodes })
}

/// The root over the first `size` leaves of a stored tree.
pub fn root(reader: &impl HashReader, size: u64) -> Result<Hash, TreeError> {
    Frontier::at(reader, size).map(|frontier| frontier.root())
}

/// The proof that leaf `index` is in the tree of `size` leaves (RFC 6962 §2.1.1), lowest hash first.
pub fn inclusion_proof(reader: &impl HashReader, index: u64, size: u64) -> Result<Vec<Hash>, TreeError> {
    if index >= size || size > SIZE_MAX {
        return Err(TreeError::OutOfRange);
    }
    let (mut start, mut end) = (0, size);
    let mut siblings = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            siblings.push(range_hash(reader, middle, end)?);
            end = middle;
        } else {
            siblings.push(range_hash(reader, start, middle)?);
            start = middle;
        }
    }
    siblings.reverse();
    Ok(siblings)
}

/// The proof that the tree of `old_size` leaves is the beginning of the tree of `size` (RFC 6962 §2.1.2). Empty when
/// `old_size` is 0 or `size`.
pub fn consistency_proof(reader: &impl HashReader, old_size: u64, size: u64) -> Result<Vec<Hash>, TreeError> {
    if old_size > size || size > SIZE_MAX {
        return Err(TreeError::OutOfRange);
    }
    if old_size == 0 || old_size == size {
        return Ok(Vec::new());
    }
    let (mut start, mut end) = (0, size);
    let mut hashes = Vec::new();
    while end != old_size {
        let middle = start + split(end - start);
        if old_size <= middle {
            hashes.push(range_hash(reader, middle, end)?);
            end = middle;
        } else {
            hashes.push(range_hash(reader, start, middle)?);
            start = middle;
        }
    }
    // The old tree's own part is known to the verifier when it is the whole old tree.
    if start != 0 {
        hashes.push(range_hash(reader, start, end)?);
    }
    hashes.reverse();
    Ok(hashes)
}

/// Whether `proof` shows that the leaf with hash `leaf` is at `index` in the tree of `size` leaves with root `root`.
#[must_use]
pub fn verify_inclusion(index: u64, size: u64, leaf: &Hash, proof: &[Hash], root: &Hash) -> bool {
    if index >= size || size > SIZE_MAX || proof.len() > PROOF_HASHES_MAX {
        return false;
    }
    let (mut position, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(sibling, &hash);
            (position, last) = skip_right_edge(position, last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (position, last) = (position >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `old_size` leaves with root `old_root` is the beginning of the tree of
/// `size` leaves with root `root`.
#[must_use]
pub fn verify_consistency(old_size: u64, size: u64, old_root: &Hash, root: &Hash, proof: &[Hash]) -> bool {
    if old_size > size || size > SIZE_MAX || proof.len() > PROOF_HASHES_MAX {
        return false;
    }
    if old_size == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    if old_size == size {
        return proof.is_empty() && old_root == root;
    }
    // A power of two is a complete subtree of the new tree, and the proof leaves it out.
    let (first, rest) = match (old_size.is_power_of_two(), proof.split_first()) {
        (true, _) => (*old_root, proof),
        (false, Some((first, rest))) => (*first, rest),
        (false, None) => return false,
    };
    let trailing = (old_size - 1).trailing_ones();
    let (mut position, mut last) = ((old_size - 1) >> trailing, (size - 1) >> trailing);
    let (mut old_hash, mut hash) = (first, first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            old_hash = node_hash(sibling, &old_hash);
            hash = node_hash(sibling, &hash);
            (position, last) = skip_right_edge(position, last);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (position, last) = (position >> 1, last >> 1);
    }
    last == 0 && old_hash == *old_root && hash == *root
}

/// On the right edge, levels without a sibling to the left are passed over.
const fn skip_right_edge(mut position: u64, mut last: u64) -> (u64, u64) {
    while position & 1 == 0 && position != 0 {
        (position, last) = (position >> 1, last >> 1);
    }
    (position, last)
}

/// The largest power of two below `width`, which is at least 2.
const fn split(width: u64) -> u64 {
    1 << (width - 1).ilog2()
}

/// The root over the leaves from `start` to `end`: a subtree of RFC 6962's recursion, so `start` is a multiple of the
/// power of two it falls into and only the right edge is incomplete.
fn range_hash(reader: &impl HashReader, start: u64, end: u64) -> Result<Hash, TreeError> {
    let (mut start, mut parts) = (start, Vec::new());
    while start < end {
        let level = (end - start).ilog2();
        let level = u8::try_from(level).map_err(|_| TreeError::OutOfRange)?;
        parts.push(stored(reader, level, start >> level)?);
        start += 1 << level;
    }
    let (last, rest) = parts.split_last().ok_or(TreeError::OutOfRange)?;
    Ok(rest.iter().rev().fold(*last, |right, left| node_hash(left, &right)))
}

fn stored(reader: &impl HashReader, level: u8, index: u64) -> Result<Hash, TreeError> {
    reader.hash(level, index).ok_or(TreeError::MissingHash { level, index })
}

#[cfg(test)]
mod tests;
