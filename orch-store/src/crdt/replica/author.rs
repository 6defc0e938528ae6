//! State of an author in a replica.

use std::collections::VecDeque;

use bytes::Bytes;
use orch_base::codec::{Input, Malformed};
use orch_core::transport::PeerId;

use crate::crdt::{clock::Stamp, codec::InputExt as _, message::Evidence, segment::Head};

/// Heads that are remembered, to compare with what others have.
const RECENT_MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Author {
    pub(super) id: PeerId,
    pub(super) member: bool,
    /// The last segment that was applied.
    pub(super) head: Head,
    /// Its stamp.
    pub(super) stamp: Stamp,
    /// Latest forgotten delete when it joined, which it need not have observed.
    pub(super) excused: Stamp,
    /// Head set by a decision, whatever else was signed.
    pub(super) settled: Head,
    /// Set until a decision settles it.
    pub(super) evidence: Option<Evidence>,
    /// The key that replaced this one.
    pub(super) successor: Option<PeerId>,
    /// The newest heads, in memory only.
    recent: VecDeque<Head>,
}

impl Author {
    pub(super) fn new(id: PeerId) -> Self {
        Self {
            id,
            member: false,
            head: Head::default(),
            stamp: Stamp::default(),
            excused: Stamp::default(),
            settled: Head::default(),
            evidence: None,
            successor: None,
            recent: VecDeque::new(),
        }
    }

    /// Meta key of the author with this number.
    pub(super) fn name(index: usize) -> String {
        format!("author/{index:05}")
    }

    pub(super) fn reach(&mut self, head: Head, stamp: Stamp) {
        (self.head, self.stamp) = (head, stamp);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(head);
    }

    /// Goes back, after a decision.
    pub(super) fn return_to(&mut self, head: Head, stamp: Stamp) {
        (self.head, self.stamp) = (head, stamp);
        self.recent.clear();
    }

    /// Head at this position, if that is remembered.
    pub(super) fn recent(&self, position: u64) -> Option<Head> {
        if position == self.head.position {
            return Some(self.head);
        }
        self.recent.iter().find(|head| head.position == position).copied()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.id.as_bytes().to_vec();
        out.push(u8::from(self.member));
        self.head.put(&mut out);
        out.extend(self.stamp.0.to_le_bytes());
        out.extend(self.excused.0.to_le_bytes());
        self.settled.put(&mut out);
        out.push(u8::from(self.evidence.is_some()));
        if let Some(evidence) = &self.evidence {
            evidence.put(&mut out);
        }
        out.push(u8::from(self.successor.is_some()));
        out.extend(self.successor.iter().flat_map(PeerId::as_bytes));
        out
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let author = Self {
            id: input.peer()?,
            member: input.flag()?,
            head: Head::read(&mut input)?,
            stamp: Stamp(input.u64()?),
            excused: Stamp(input.u64()?),
            settled: Head::read(&mut input)?,
            evidence: input.flag()?.then(|| Evidence::read(&mut input)).transpose()?,
            successor: input.flag()?.then(|| input.peer()).transpose()?,
            recent: VecDeque::new(),
        };
        input.end()?;
        Ok(author)
    }
}
