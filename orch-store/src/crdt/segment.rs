//! Segments: what an author signs.

use std::collections::BTreeMap;

use bytes::Bytes;
use orch_base::codec::{Input, Malformed, length, put_bytes, put_short_text};
use orch_core::{
    store::{Key, Write},
    transport::PeerId,
};

use super::{
    clock::Stamp,
    codec::InputExt as _,
    key::{AuthorKey, is_signed},
    merkle::{Hash, Tree, parent},
};

/// The format of segments, and what is signed with them.
const VERSION: u8 = 1;
const SIGNED: &[u8] = b"orch crdt segment header\0";
const HEADER_BYTES: usize = 1 + 32 + 32 + 8 + 32 + 8 + 4 + 32;

/// The most entries of a segment.
pub const SEGMENT_ENTRIES_MAX: usize = 1 << 16;
/// The most bytes of a segment in its encoded form.
pub const SEGMENT_BYTES_MAX: usize = 4 << 20;
/// The largest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Key of a segment: the author's number in this replica, and the position.
pub type SegmentKey = (u16, u64);

/// Head of a log: the position of its last segment, and the hash of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Head {
    /// Counts from 1; zero before the first segment.
    pub position: u64,
    /// The hash of the header there.
    pub hash: Hash,
}

/// Signed header of a segment. It names the group, so that it is worth nothing in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The group.
    pub group: Hash,
    /// Author that wrote it.
    pub author: PeerId,
    /// Its number in the author's log, from 1.
    pub position: u64,
    /// The hash of the header before it; zero at position 1.
    pub previous: Hash,
    /// Time of writing. Greater than that of the one before.
    pub stamp: Stamp,
    /// Number of entries when it was signed.
    pub entries: u32,
    /// The root of the hash tree over them.
    pub root: Hash,
}

/// A header with its signature: all that is needed to show what somebody signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedHeader {
    /// Signed header.
    pub header: Header,
    /// By its author.
    pub signature: [u8; 64],
}

/// Writes of one author that were made together, under one signature. Keys are in ascending order, each once.
/// Entries that nobody needs any more may be replaced by hashes; the others are proven by the signature as
/// before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub(super) signed: SignedHeader,
    pub(super) nodes: Vec<Node>,
}

/// An entry with its hash in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) write: Write,
    pub(super) hash: Hash,
}

/// A part of the tree, from left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Entry(Write),
    /// A full subtree with 2^height leaves.
    Pruned(u8, Hash),
}

const TAG_PUT: u8 = 0;
const TAG_DELETE: u8 = 1;
const TAG_PRUNED: u8 = 2;

impl SignedHeader {
    pub(super) const BYTES: usize = HEADER_BYTES + 64;

    /// The hash that names the header.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.header.encode())
    }

    /// Head of the log that ends with this segment.
    #[must_use]
    pub fn head(&self) -> Head {
        Head { position: self.header.position, hash: self.hash() }
    }

    /// True if the author it names has signed it.
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        is_signed(self.header.author, &self.header.statement(), &self.signature)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header.encode());
        out.extend_from_slice(&self.signature);
    }

    pub(super) fn read(input: &mut Input) -> Result<Self, Malformed> {
        Ok(Self { header: Header::read(input)?, signature: input.array()? })
    }
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.push(VERSION);
        out.extend(self.group.0);
        out.extend(self.author.as_bytes());
        out.extend(self.position.to_le_bytes());
        out.extend(self.previous.0);
        out.extend(self.stamp.0.to_le_bytes());
        out.extend(self.entries.to_le_bytes());
        out.extend(self.root.0);
        out.try_into().expect("the fields add up")
    }

    fn statement(&self) -> Vec<u8> {
        [SIGNED, &self.encode()].concat()
    }

    fn read(input: &mut Input) -> Result<Self, Malformed> {
        if input.u8()? != VERSION {
            return Err(Malformed("a segment of another version"));
        }
        Ok(Self {
            group: Hash(input.array()?),
            author: input.peer()?,
            position: input.u64()?,
            previous: Hash(input.array()?),
            stamp: Stamp(input.u64()?),
            entries: input.u32()?,
            root: Hash(input.array()?),
        })
    }
}

impl Segment {
    /// Signs writes as the segment after `previous`, whatever the rules of the group say of them. A
    /// [`Replica`](super::replica::Replica) does that by itself; this is for those who simulate one that
    /// lies.
    #[must_use]
    pub fn sign(key: &AuthorKey, group: Hash, previous: Head, stamp: Stamp, writes: Vec<Write>) -> Self {
        let net: BTreeMap<_, _> = writes.into_iter().map(|write| (write.key, write.value)).collect();
        let leaves = net.into_iter().map(|(key, value)| Leaf::new(Write { key, value }));
        Self::sign_encoded(key, group, previous, stamp, leaves).0
    }

    /// Signs these leaves, and gives the bytes too. There is at least one, their keys ascend, and they are
    /// within the bounds.
    pub(super) fn sign_encoded(
        key: &AuthorKey,
        group: Hash,
        previous: Head,
        stamp: Stamp,
        leaves: impl Iterator<Item = Leaf>,
    ) -> (Self, Vec<u8>) {
        let mut tree = Tree::default();
        let mut size = SEGMENT_FRAME;
        let nodes: Vec<_> = leaves
            .map(|Leaf { write, hash }| {
                size += entry_bytes(&write.key, write.value.as_ref());
                let fits = tree.push(0, hash);
                debug_assert!(fits, "leaves fit everywhere");
                Node::Entry(write)
            })
            .collect();
        let mut encoded = Vec::with_capacity(size);
        encoded.resize(SEGMENT_FRAME, 0);
        nodes.iter().for_each(|node| node.put(&mut encoded));
        let header = Header {
            group,
            author: key.author(),
            position: previous.position + 1,
            previous: previous.hash,
            stamp,
            entries: length(nodes.len()),
            root: tree.root(),
        };
        let signed = SignedHeader { header, signature: key.sign(&header.statement()) };
        let mut front = Vec::with_capacity(SEGMENT_FRAME);
        signed.put(&mut front);
        encoded[..SEGMENT_FRAME].copy_from_slice(&front);
        (Self { signed, nodes }, encoded)
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.signed.put(&mut out);
        self.nodes.iter().for_each(|node| node.put(&mut out));
        out
    }

    /// Reads a segment and checks that its entries are those of its header, whoever signed it:
    /// [`SignedHeader::is_genuine`] says that.
    ///
    /// # Errors
    /// [`Malformed`], with the reason.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        if bytes.len() > SEGMENT_BYTES_MAX {
            return Err(Malformed("a segment is too large"));
        }
        let mut tree = Tree::default();
        let segment = Self::read(bytes, |height, hash| tree.push(height, hash()))?;
        if tree.leaves() != u64::from(segment.signed.header.entries) {
            return Err(Malformed("a segment has another number of entries than it says"));
        }
        if tree.root() != segment.signed.header.root {
            return Err(Malformed("the entries of a segment are not those that were signed"));
        }
        Ok(segment)
    }

    /// Reads what was checked before it was stored.
    pub(super) fn decode_own(bytes: Bytes) -> Result<Self, Malformed> {
        Self::read(bytes, |_, _| true)
    }

    fn read(bytes: Bytes, mut leaf: impl FnMut(u8, &dyn Fn() -> Hash) -> bool) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let signed = SignedHeader::read(&mut input)?;
        let entries = signed.header.entries as usize;
        if entries == 0 || entries > SEGMENT_ENTRIES_MAX || signed.header.position == 0 {
            return Err(Malformed("the number of entries or the position is out of bounds"));
        }
        let mut nodes: Vec<Node> = Vec::with_capacity(entries.min(input.0.len() / 4 + 1));
        let mut last: Option<Key> = None;
        while !input.0.is_empty() {
            if nodes.len() == entries {
                return Err(Malformed("a segment has more entries than it says"));
            }
            let begin = input.0.clone();
            let node = Node::read(&mut input)?;
            let size = begin.len() - input.0.len();
            let fits = match &node {
                Node::Pruned(height, hash) => leaf(*height, &|| *hash),
                Node::Entry(write) => {
                    if last.as_ref().is_some_and(|last| *last >= write.key) {
                        return Err(Malformed("the keys of a segment are not in order"));
                    }
                    last = Some(write.key.clone());
                    leaf(0, &|| Hash::of(&begin[..size]))
                }
            };
            if !fits {
                return Err(Malformed("a pruned part is not where one can be"));
            }
            nodes.push(node);
        }
        Ok(Self { signed, nodes })
    }

    /// Its header and signature.
    #[must_use]
    pub fn signed(&self) -> &SignedHeader {
        &self.signed
    }

    /// The entries that are left, in order of their keys.
    pub fn entries(&self) -> impl Iterator<Item = &Write> {
        self.leaves().map(|(_, write)| write)
    }

    /// The same, each with its index among all that were signed.
    pub(super) fn leaves(&self) -> impl Iterator<Item = (usize, &Write)> {
        let mut at = 0;
        self.nodes.iter().filter_map(move |node| {
            let leaf = at;
            at += 1 << node.height();
            match node {
                Node::Entry(write) => Some((leaf, write)),
                Node::Pruned(..) => None,
            }
        })
    }

    /// True if every entry that was signed is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.nodes.iter().all(|node| matches!(node, Node::Entry(_)))
    }

    /// Replaces the entries that are not to be kept by hashes.
    pub(super) fn prune(&mut self, mut keep: impl FnMut(&Write) -> bool) {
        let mut nodes: Vec<Node> = Vec::new();
        let mut at = 0u64;
        for node in self.nodes.drain(..) {
            let (mut height, mut hash) = match node {
                Node::Pruned(height, hash) => (height, hash),
                Node::Entry(ref write) if !keep(write) => (0, node.leaf_hash()),
                kept @ Node::Entry(_) => {
                    at += 1;
                    nodes.push(kept);
                    continue;
                }
            };
            let size = 1u64 << height;
            let mut begin = at;
            at += size;
            // Two halves of a full subtree are one.
            while (begin >> height) & 1 == 1
                && let Some(Node::Pruned(other, left)) = nodes.last()
                && *other == height
            {
                hash = parent(left, &hash);
                begin -= 1 << height;
                height += 1;
                nodes.pop();
            }
            nodes.push(Node::Pruned(height, hash));
        }
        self.nodes = nodes;
    }

    /// Takes in the entries that another copy of the same segment still has. Both were checked against one
    /// header.
    pub(super) fn join(&mut self, other: Self) {
        debug_assert_eq!(self.signed.header, other.signed.header, "copies of one segment");
        let mut theirs = other.nodes.into_iter().peekable();
        let mut nodes = Vec::new();
        let (mut at, mut their_at) = (0u64, 0u64);
        for ours in std::mem::take(&mut self.nodes) {
            let size = ours.leaves();
            if their_at > at {
                // Inside of what they have pruned more of.
                at += size;
                nodes.push(ours);
                continue;
            }
            at += size;
            let coarser = theirs.peek().is_some_and(|theirs| theirs.leaves() > size);
            if coarser || matches!(ours, Node::Entry(_)) {
                their_at += theirs.next().map_or(0, |theirs| theirs.leaves());
                nodes.push(ours);
                continue;
            }
            while their_at < at
                && let Some(finer) = theirs.next()
            {
                their_at += finer.leaves();
                nodes.push(finer);
            }
        }
        self.nodes = nodes;
    }
}

impl Leaf {
    pub(super) fn new(write: Write) -> Self {
        let mut bytes = Vec::with_capacity(entry_bytes(&write.key, write.value.as_ref()));
        put_entry(&write, &mut bytes);
        Self { hash: Hash::of(&bytes), write }
    }
}

fn put_entry(Write { key, value }: &Write, out: &mut Vec<u8>) {
    out.push(if value.is_some() { TAG_PUT } else { TAG_DELETE });
    put_short_text(key.as_str(), out);
    if let Some(value) = value {
        put_bytes(value, out);
    }
}

impl Node {
    /// Of the full subtree that it stands for.
    fn height(&self) -> u8 {
        match self {
            Self::Entry(_) => 0,
            Self::Pruned(height, _) => *height,
        }
    }

    fn leaves(&self) -> u64 {
        1 << self.height()
    }

    fn leaf_hash(&self) -> Hash {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        Hash::of(&bytes)
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry(write) => put_entry(write, out),
            Self::Pruned(height, hash) => {
                out.extend([TAG_PRUNED, *height]);
                out.extend(hash.0);
            }
        }
    }

    fn read(input: &mut Input) -> Result<Self, Malformed> {
        match input.u8()? {
            TAG_PUT => {
                let key = input.key()?;
                let value = input.bytes()?;
                if value.len() > VALUE_BYTES_MAX {
                    return Err(Malformed("a value is too large"));
                }
                Ok(Self::Entry(Write { key, value: Some(value) }))
            }
            TAG_DELETE => Ok(Self::Entry(Write { key: input.key()?, value: None })),
            TAG_PRUNED => match input.u8()? {
                height @ 0..=16 => Ok(Self::Pruned(height, Hash(input.array()?))),
                _ => Err(Malformed("a pruned part is larger than a segment")),
            },
            _ => Err(Malformed("an unknown kind of entry")),
        }
    }
}

/// Bytes of a write in a segment.
pub(super) fn entry_bytes(key: &Key, value: Option<&Bytes>) -> usize {
    1 + 2 + key.as_str().len() + value.map_or(0, |value| 4 + value.len())
}

/// The bytes of an empty segment.
pub(super) const SEGMENT_FRAME: usize = SignedHeader::BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(entries: usize) -> Segment {
        let key = AuthorKey::from_seed(&[1; 32]);
        let writes = (0..entries).map(|n| {
            let value = (n % 5 != 4).then(|| Bytes::from(vec![7; n % 9]));
            Leaf::new(Write { key: Key::new(format!("k/{n:04}")).unwrap(), value })
        });
        let (segment, bytes) =
            Segment::sign_encoded(&key, Hash::of(b"g"), Head::default(), Stamp(77), writes);
        assert_eq!(segment.encode(), bytes);
        segment
    }

    #[test]
    fn pruned_segments_prove_what_is_left_and_join_again() {
        for entries in [1, 2, 3, 7, 8, 33, 64] {
            let whole = segment(entries);
            for seed in 0..20usize {
                let keep = |seed: usize| {
                    move |write: &Write| Hash::of(write.key.as_str().as_bytes()).0[seed].is_multiple_of(4)
                };
                let mut left = whole.clone();
                left.prune(keep(seed));
                assert_eq!(
                    left.entries().collect::<Vec<_>>(),
                    whole.entries().filter(|write| keep(seed)(write)).collect::<Vec<_>>()
                );
                let again = Segment::decode(left.encode().into()).unwrap();
                assert_eq!(again, left, "what is left has the root that was signed");
                assert!(again.signed().is_genuine());
                let mut right = whole.clone();
                right.prune(keep(seed + 1));
                let mut both = left.clone();
                both.join(right.clone());
                let union = whole.entries().filter(|write| keep(seed)(write) || keep(seed + 1)(write));
                assert_eq!(both.entries().collect::<Vec<_>>(), union.collect::<Vec<_>>(), "{entries} {seed}");
                Segment::decode(both.encode().into()).unwrap();
                both.join(whole.clone());
                assert!(both.is_complete() && both == whole);
            }
            let mut none = whole.clone();
            none.prune(|_| false);
            assert_eq!(none.nodes.len(), entries.count_ones() as usize, "complete subtrees become one hash");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut some = segment(9);
        some.prune(|write| !write.key.as_str().ends_with('3'));
        for good in [segment(5).encode(), some.encode()] {
            for at in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[at / 8] ^= 1 << (at % 8);
                let passes = Segment::decode(bad.into()).is_ok_and(|segment| segment.signed().is_genuine());
                assert!(!passes, "bit {at} was flipped and nobody noticed");
            }
            for cut in 0..good.len() {
                assert!(Segment::decode(Bytes::copy_from_slice(&good[..cut])).is_err(), "cut at {cut}");
            }
        }
    }
}
