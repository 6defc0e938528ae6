//! Record of the view under a key: the last write, and those of other authors where they matter.

use bytes::Bytes;
use orch_base::codec::{Input, Malformed};
use orch_core::store::Revision;

use super::{clock::Stamp, merkle::Hash, segment::SegmentKey};

/// The latest write of one author to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The segment that it is in. Names the author too.
    pub(super) at: SegmentKey,
    pub(super) stamp: Stamp,
    /// The hash of what was written; `None` when it was deleted.
    pub(super) hash: Option<Hash>,
}

/// The writes to one key that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Revision of the last change that readers observe.
    pub(super) version: Revision,
    /// Value of the winning write; `None` for a delete.
    pub(super) value: Option<Bytes>,
    pub(super) at: SegmentKey,
    pub(super) stamp: Stamp,
    /// The latest writes of other authors, where more than one has to agree. Empty otherwise.
    pub(super) others: Vec<Candidate>,
}

const DELETED: u8 = 1;
const CANDIDATE_BYTES: usize = 2 + 8 + 8 + 1 + 32;

impl Record {
    /// The winner.
    pub(super) fn winner(&self) -> Candidate {
        Candidate { at: self.at, stamp: self.stamp, hash: self.value.as_deref().map(Hash::of) }
    }

    /// True if nobody who wrote the key says any more that it has a value. As long as somebody does, that
    /// counts for confirmed reads, whatever another one has deleted.
    pub(super) fn is_deleted_by_all(&self) -> bool {
        self.value.is_none() && self.others.iter().all(|other| other.hash.is_none())
    }

    /// The writes of all authors, the winner's first.
    pub(super) fn segments(&self) -> impl Iterator<Item = SegmentKey> {
        std::iter::once(self.at).chain(self.others.iter().map(|other| other.at))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend(self.version.0.to_le_bytes());
        out.extend(self.stamp.0.to_le_bytes());
        out.extend(self.at.0.to_le_bytes());
        out.extend(self.at.1.to_le_bytes());
        out.push(if self.value.is_none() { DELETED } else { 0 });
        out.extend(u16::try_from(self.others.len()).expect("authors have 16 bits").to_le_bytes());
        for Candidate { at, stamp, hash } in &self.others {
            out.extend(at.0.to_le_bytes());
            out.extend(at.1.to_le_bytes());
            out.extend(stamp.0.to_le_bytes());
            out.push(if hash.is_none() { DELETED } else { 0 });
            out.extend(hash.unwrap_or_default().0);
        }
        out.extend_from_slice(self.value.as_deref().unwrap_or_default());
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let version = Revision(input.u64()?);
        let stamp = Stamp(input.u64()?);
        let at = (input.u16()?, input.u64()?);
        let deleted = input.flag()?;
        let count = usize::from(input.u16()?);
        if count * CANDIDATE_BYTES > input.0.len() {
            return Err(Malformed("a record ends too early"));
        }
        let mut others = Vec::with_capacity(count);
        for _ in 0..count {
            let at = (input.u16()?, input.u64()?);
            let stamp = Stamp(input.u64()?);
            let deleted = input.flag()?;
            let hash = Hash(input.array()?);
            others.push(Candidate { at, stamp, hash: (!deleted).then_some(hash) });
        }
        Ok(Self { version, value: (!deleted).then_some(input.0), at, stamp, others })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let other = |hash| Candidate { at: (3, 9), stamp: Stamp(4), hash };
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"value"))] {
            for others in [vec![], vec![other(None), other(Some(Hash::of(b"x")))]] {
                let record = Record {
                    version: Revision(7),
                    value: value.clone(),
                    at: (1, 2),
                    stamp: Stamp(5),
                    others,
                };
                let mut bytes = Vec::new();
                record.encode(&mut bytes);
                assert_eq!(Record::decode(bytes.clone().into()).unwrap(), record);
                assert!(Record::decode(bytes[..20].to_vec().into()).is_err());
            }
        }
    }
}
