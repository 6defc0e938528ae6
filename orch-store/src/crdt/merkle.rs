//! The hash tree over the entries of a segment: binary, left-full like that of RFC 6962, over BLAKE3. Leaves
//! are hashed without a key and inner nodes with one, so that neither passes for the other.

use std::fmt;

/// A BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hash(pub(super) [u8; 32]);

impl Hash {
    /// Of nothing: what comes before the first segment.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// The hash with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({:02x}{:02x}{:02x}{:02x}..)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

const INNER: &[u8; 32] = b"orch crdt inner node of a tree 1";

pub(super) fn parent(left: &Hash, right: &Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(&left.0);
    both[32..].copy_from_slice(&right.0);
    Hash(blake3::keyed_hash(INNER, &both).into())
}

/// Computes a root from leaves and complete subtrees that come from left to right.
#[derive(Default)]
pub(super) struct Tree {
    /// Roots of full subtrees, of strictly falling height.
    peaks: Vec<(u8, Hash)>,
    leaves: u64,
}

impl Tree {
    /// Adds the full subtree with 2^`height` leaves; says whether it can stand there.
    #[must_use]
    pub(super) fn push(&mut self, mut height: u8, mut hash: Hash) -> bool {
        if height > 31 || !self.leaves.is_multiple_of(1 << height) {
            return false;
        }
        self.leaves += 1 << height;
        while let Some((_, left)) = self.peaks.pop_if(|(other, _)| *other == height) {
            hash = parent(&left, &hash);
            height += 1;
        }
        self.peaks.push((height, hash));
        true
    }

    pub(super) fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The root; zero without leaves.
    pub(super) fn root(mut self) -> Hash {
        let Some((_, mut root)) = self.peaks.pop() else { return Hash::ZERO };
        while let Some((_, left)) = self.peaks.pop() {
            root = parent(&left, &root);
        }
        root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962, section 2.1, word by word.
    fn by_definition(leaves: &[Hash]) -> Hash {
        if leaves.len() == 1 {
            return leaves[0];
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        parent(&by_definition(left), &by_definition(right))
    }

    #[test]
    fn roots_are_those_of_the_definition_also_over_subtrees() {
        let leaves: Vec<_> = (0..70u8).map(|n| Hash::of(&[n])).collect();
        for count in 1..leaves.len() {
            let mut whole = Tree::default();
            let mut pruned = Tree::default();
            leaves[..count].iter().for_each(|leaf| assert!(whole.push(0, *leaf)));
            for pair in leaves[..count].chunks(2) {
                match pair {
                    [left, right] => assert!(pruned.push(1, parent(left, right))),
                    rest => assert!(pruned.push(0, rest[0])),
                }
            }
            let expected = by_definition(&leaves[..count]);
            assert_eq!((whole.root(), pruned.root()), (expected, expected), "{count} leaves");
        }
        let mut odd = Tree::default();
        assert!(odd.push(0, leaves[0]));
        assert!(!odd.push(1, leaves[1]), "a subtree of two begins at an even leaf");
    }
}
