//! Messages between replicas.

use bytes::Bytes;
use orch_base::codec::{Input, Malformed, put_bytes, put_list, put_short_text};
use orch_core::{store::Key, transport::PeerId};

use super::{
    clock::Stamp,
    codec::InputExt as _,
    merkle::Hash,
    segment::{Head, SignedHeader},
};

/// The format of messages. Others are refused.
const VERSION: u8 = 1;

/// The most authors that a group ever has.
pub const AUTHORS_MAX: usize = 1024;
/// The most segments in one message.
pub(super) const SEGMENTS_MAX: usize = 1024;
/// The most ranges in one message, and the most entries that are named in one.
pub(super) const RANGES_MAX: usize = 64;
pub(super) const ITEMS_MAX: usize = 4096;

/// A message between replicas. The transport says who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Heads of all authors on the sender's disk. The answer is [`Message::Want`], where something is
    /// missing.
    Digest {
        /// The group.
        group: Hash,
        /// It has all that counts up to its heads; otherwise it is still being repaired.
        complete: bool,
        /// Head of each author's log on the sender's disk.
        heads: Vec<(PeerId, Head)>,
    },
    /// Asks for what follows. With another hash than that of the receiver, there are two logs of this author.
    Want {
        /// Of whom.
        author: PeerId,
        /// The sender's head, or fingerprints, of it.
        after: Head,
    },
    /// Segments of one author in order, fresh ones or such as were asked for.
    Supply {
        /// Author of the segments.
        author: PeerId,
        /// These are all that the sender has after this position, up to the last of them.
        after: u64,
        /// There are more after them.
        more: bool,
        /// Encoded segments.
        segments: Vec<Bytes>,
    },
    /// Two headers of one author that exclude each other.
    Evidence(Box<Evidence>),
    /// Asks whether the receiver has the same entries in ranges of keys.
    Compare {
        /// Keys the fingerprints, so that nobody can prepare for them, and identifies the request in its
        /// response.
        nonce: [u8; 16],
        /// The sender's head, or fingerprints, of it.
        ranges: Vec<(Range, Fingerprint)>,
    },
    /// The answer to one [`Message::Compare`].
    Compared {
        /// Nonce of the request.
        nonce: [u8; 16],
        /// For each range that was asked for: nothing where it is the same.
        answers: Vec<(Range, Difference)>,
    },
    /// Requests entries by their positions.
    Fetch {
        /// The entries.
        items: Vec<Item>,
    },
    /// Segments that hold entries that were asked for.
    Patch {
        /// Encoded segments, pruned to what was asked for.
        segments: Vec<Bytes>,
    },
}

/// Keys from `from` on and before `to`; `None` is after the last key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// The first key, or where it would be.
    pub from: String,
    /// The first key that does not belong to it.
    pub to: Option<String>,
}

/// A sum over the entries of a range, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// Their keyed hashes, added as numbers of 256 bits.
    pub sum: [u64; 4],
    /// Number of entries.
    pub count: u64,
}

/// Difference of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It does not.
    None,
    /// It is long: here are its parts.
    Parts(Vec<(Range, Fingerprint)>),
    /// These are the entries.
    Items(Vec<Item>),
}

/// Position of an entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Its key.
    pub key: Key,
    /// Author that wrote it.
    pub author: PeerId,
    /// In which segment.
    pub position: u64,
    /// Time of the write.
    pub stamp: Stamp,
    /// It is a delete.
    pub deleted: bool,
}

/// Two different headers that one author signed for one position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// One.
    pub first: SignedHeader,
    /// The other.
    pub second: SignedHeader,
}

impl Evidence {
    /// Author or owner.
    #[must_use]
    pub fn author(&self) -> PeerId {
        self.first.header.author
    }

    /// True if it shows what it claims, in this group.
    #[must_use]
    pub fn is_proof(&self, group: Hash) -> bool {
        let (first, second) = (&self.first.header, &self.second.header);
        first.group == group
            && second.group == group
            && first.author == second.author
            && first.position == second.position
            && first != second
            && self.first.is_genuine()
            && self.second.is_genuine()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        self.first.put(out);
        self.second.put(out);
    }

    pub(super) fn read(input: &mut Input) -> Result<Self, Malformed> {
        Ok(Self { first: SignedHeader::read(input)?, second: SignedHeader::read(input)? })
    }
}

impl Message {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Digest { group, complete, heads } => {
                out.push(0);
                out.extend(group.0);
                out.push(u8::from(*complete));
                put_list(heads, &mut out, |(author, head), out| {
                    out.extend(author.as_bytes());
                    head.put(out);
                });
            }
            Self::Want { author, after } => {
                out.push(1);
                out.extend(author.as_bytes());
                after.put(&mut out);
            }
            Self::Supply { author, after, more, segments } => {
                out.push(2);
                out.extend(author.as_bytes());
                out.extend(after.to_le_bytes());
                out.push(u8::from(*more));
                put_list(segments, &mut out, |segment, out| put_bytes(segment, out));
            }
            Self::Evidence(evidence) => {
                out.push(3);
                evidence.put(&mut out);
            }
            Self::Compare { nonce, ranges } => {
                out.push(4);
                out.extend(nonce);
                put_ranges(ranges, &mut out);
            }
            Self::Compared { nonce, answers } => {
                out.push(5);
                out.extend(nonce);
                put_list(answers, &mut out, |(range, difference), out| {
                    range.put(out);
                    match difference {
                        Difference::None => out.push(0),
                        Difference::Parts(parts) => {
                            out.push(1);
                            put_ranges(parts, out);
                        }
                        Difference::Items(items) => {
                            out.push(2);
                            put_list(items, out, Item::put);
                        }
                    }
                });
            }
            Self::Fetch { items } => {
                out.push(6);
                put_list(items, &mut out, Item::put);
            }
            Self::Patch { segments } => {
                out.push(7);
                put_list(segments, &mut out, |segment, out| put_bytes(segment, out));
            }
        }
        out
    }

    /// Reads what [`Message::encode`] wrote.
    ///
    /// # Errors
    /// [`Malformed`], with the reason.
    pub fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        if input.u8()? != VERSION {
            return Err(Malformed("a message of another version"));
        }
        let message = match input.u8()? {
            0 => Self::Digest {
                group: Hash(input.array()?),
                complete: input.flag()?,
                heads: input.list(72, AUTHORS_MAX, |input| Ok((input.peer()?, Head::read(input)?)))?,
            },
            1 => Self::Want { author: input.peer()?, after: Head::read(&mut input)? },
            2 => Self::Supply {
                author: input.peer()?,
                after: input.u64()?,
                more: input.flag()?,
                segments: input.list(4, SEGMENTS_MAX, Input::bytes)?,
            },
            3 => Self::Evidence(Box::new(Evidence::read(&mut input)?)),
            4 => Self::Compare { nonce: input.array()?, ranges: read_ranges(&mut input)? },
            5 => Self::Compared {
                nonce: input.array()?,
                answers: input.list(4, RANGES_MAX, |input| {
                    let range = Range::read(input)?;
                    let difference = match input.u8()? {
                        0 => Difference::None,
                        1 => Difference::Parts(read_ranges(input)?),
                        2 => Difference::Items(read_items(input)?),
                        _ => return Err(Malformed("an unknown kind of difference")),
                    };
                    Ok((range, difference))
                })?,
            },
            6 => Self::Fetch { items: read_items(&mut input)? },
            7 => Self::Patch { segments: input.list(4, ITEMS_MAX, Input::bytes)? },
            _ => return Err(Malformed("an unknown kind of message")),
        };
        input.end()?;
        Ok(message)
    }
}

fn put_ranges(ranges: &[(Range, Fingerprint)], out: &mut Vec<u8>) {
    put_list(ranges, out, |(range, Fingerprint { sum, count }), out| {
        range.put(out);
        sum.iter().for_each(|word| out.extend(word.to_le_bytes()));
        out.extend(count.to_le_bytes());
    });
}

fn read_ranges(input: &mut Input) -> Result<Vec<(Range, Fingerprint)>, Malformed> {
    input.list(43, RANGES_MAX, |input| {
        let range = Range::read(input)?;
        let sum = [input.u64()?, input.u64()?, input.u64()?, input.u64()?];
        Ok((range, Fingerprint { sum, count: input.u64()? }))
    })
}

fn read_items(input: &mut Input) -> Result<Vec<Item>, Malformed> {
    input.list(52, ITEMS_MAX, |input| {
        Ok(Item {
            key: input.key()?,
            author: input.peer()?,
            position: input.u64()?,
            stamp: Stamp(input.u64()?),
            deleted: input.flag()?,
        })
    })
}

impl Item {
    fn put(&self, out: &mut Vec<u8>) {
        put_short_text(self.key.as_str(), out);
        out.extend(self.author.as_bytes());
        out.extend(self.position.to_le_bytes());
        out.extend(self.stamp.0.to_le_bytes());
        out.push(u8::from(self.deleted));
    }
}

impl Range {
    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self { from: String::new(), to: None }
    }

    /// True if the key is in it.
    #[must_use]
    pub fn holds(&self, key: &str) -> bool {
        *self.from <= *key && self.ends_after(key)
    }

    pub(super) fn ends_after(&self, key: &str) -> bool {
        self.to.as_deref().is_none_or(|to| key < to)
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_short_text(&self.from, out);
        out.push(u8::from(self.to.is_some()));
        if let Some(to) = &self.to {
            put_short_text(to, out);
        }
    }

    fn read(input: &mut Input) -> Result<Self, Malformed> {
        let from = input.short_text(Key::MAX_LEN)?;
        let to = input.flag()?.then(|| input.short_text(Key::MAX_LEN)).transpose()?;
        Ok(Self { from, to })
    }
}

impl Head {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.position.to_le_bytes());
        out.extend(self.hash.0);
    }

    pub(super) fn read(input: &mut Input) -> Result<Self, Malformed> {
        Ok(Self { position: input.u64()?, hash: Hash(input.array()?) })
    }
}
