//! The log in bytes: frames of length, checksum and content. What was not synced may be cut short or damaged
//! by a crash; none of it was acknowledged.

use bytes::Bytes;

use crate::codec::{Decode, Encode, Input, Malformed, length};
use crate::raft::types::{Entry, LogId, Vote};

/// First bytes of every file of the log; the digit is the version.
pub(super) const MAGIC: &[u8; 8] = b"orchrlg1";
/// The magic and the member that it belongs to.
pub(super) const HEAD_BYTES: usize = 16;
/// Length and checksum.
pub(super) const FRAME_HEAD_BYTES: usize = 12;

/// Event of the log.
#[derive(Debug, PartialEq)]
pub(super) enum Record {
    Entry(Entry),
    Vote(Vote),
    Committed(LogId),
    /// Entries from this one on are superseded.
    Truncated(u64),
    /// Entries up to this one are in a snapshot.
    Purged(LogId),
}

impl Encode for Record {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Entry(entry) => {
                out.push(0);
                entry.encode(out);
            }
            Self::Vote(vote) => {
                out.push(1);
                vote.encode(out);
            }
            Self::Committed(log_id) => {
                out.push(2);
                log_id.encode(out);
            }
            Self::Truncated(index) => {
                out.push(3);
                index.encode(out);
            }
            Self::Purged(log_id) => {
                out.push(4);
                log_id.encode(out);
            }
        }
    }
}

impl Decode for Record {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        match input.u8()? {
            0 => Entry::decode(input).map(Self::Entry),
            1 => Vote::decode(input).map(Self::Vote),
            2 => LogId::decode(input).map(Self::Committed),
            3 => input.u64().map(Self::Truncated),
            4 => LogId::decode(input).map(Self::Purged),
            _ => Err(Malformed("a record of an unknown kind")),
        }
    }
}

/// Adds a frame; says how many bytes it takes.
pub(super) fn put(record: &Record, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend([0; FRAME_HEAD_BYTES]);
    record.encode(out);
    let content = &out[start + FRAME_HEAD_BYTES..];
    let (long, sum) = (length(content.len()), checksum(content));
    out[start..start + 4].copy_from_slice(&long.to_le_bytes());
    out[start + 4..start + FRAME_HEAD_BYTES].copy_from_slice(&sum);
    out.len() - start
}

/// The content of the frame at the beginning, if it is whole.
pub(super) fn next(rest: &Bytes) -> Option<Bytes> {
    let (long, after) = rest.split_first_chunk::<4>()?;
    let (sum, after) = after.split_first_chunk::<8>()?;
    let long = u32::from_le_bytes(*long) as usize;
    let content = after.get(..long)?;
    (long > 0 && checksum(content) == *sum).then(|| rest.slice(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + long))
}

pub(super) fn head(owner: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    owner.encode(&mut head);
    head
}

fn checksum(content: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(content).as_bytes();
    [a, b, c, d, e, f, g, h]
}
