//! Decisions: made elsewhere, in one order for all replicas.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use orch_core::{
    store::{Key, Write},
    transport::PeerId,
};

use super::{
    Effect, Event, Replica,
    read::{confirmed_name, value_with_hash},
};
use crate::crdt::{
    applied::Applied,
    clock::Stamp,
    merkle::Hash,
    message::AUTHORS_MAX,
    record::Record,
    segment::{Head, Segment},
    tables::Tables,
};

/// Something that the group has agreed on by other means. Each replica applies the same ones, in the same
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The author may write.
    Join {
        /// Author.
        author: PeerId,
    },
    /// The author's log ends here; it may not write any more. What it wrote stays. Whoever proposes this
    /// names the end that it knows.
    Leave {
        /// Author.
        author: PeerId,
        /// The last segment that counts.
        end: Head,
    },
    /// Another key replaces the author's, and owns its keys too.
    Rotate {
        /// The key that ends.
        old: PeerId,
        /// The last segment under it that counts.
        end: Head,
        /// The key that goes on. It has never been in the group before.
        new: PeerId,
    },
    /// Of all that the author signed, the log that goes up to here counts; it goes on from there.
    Settle {
        /// Author of the log.
        author: PeerId,
        /// The segment that counts.
        head: Head,
    },
    /// The value with this hash is confirmed for a key.
    Confirm {
        /// The key.
        key: Key,
        /// The hash of the value.
        value: Hash,
    },
}

/// Why a decision has no effect. The same in all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// Nobody by that name ever joined.
    #[error("author {0} has never been in the group")]
    Unknown(PeerId),
    /// A key is used for one author, once.
    #[error("author {0} has been in the group before; use a new key")]
    Known(PeerId),
    /// More authors than the format can hold.
    #[error("a group has at most {AUTHORS_MAX} authors")]
    TooMany,
}

impl Replica {
    /// Applies a decision, once: `number` says which it is in the order, and those that were applied already
    /// are passed over.
    ///
    /// # Errors
    /// Outside when the tables fail; inside when the decision can have no effect. It counts as applied then.
    pub fn decide<T: Tables>(
        &mut self,
        tables: &mut T,
        number: u64,
        decision: Decision,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DecisionError>, T::Error> {
        if number <= self.decided {
            return Ok(Ok(()));
        }
        self.decided = number;
        self.meta_changed = true;
        let done = self.decide_new(tables, decision, out)?;
        self.me = self.by_id.get(&self.key.author()).copied();
        self.finish(tables)?;
        Ok(done)
    }

    fn decide_new<T: Tables>(
        &mut self,
        tables: &mut T,
        decision: Decision,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DecisionError>, T::Error> {
        match decision {
            Decision::Join { author } => Ok(self.join(author)),
            Decision::Settle { author, head } => self.settle(tables, author, head, out),
            Decision::Leave { author, end } => {
                let done = self.settle(tables, author, end, out)?;
                self.expel(author);
                Ok(done)
            }
            Decision::Rotate { old, end, new } => {
                if self.by_id.contains_key(&new) {
                    return Ok(Err(DecisionError::Known(new)));
                }
                if let Err(error) = self.settle(tables, old, end, out)? {
                    return Ok(Err(error));
                }
                if let Err(error) = self.join(new) {
                    return Ok(Err(error));
                }
                self.expel(old);
                let index = self.author(old);
                self.authors[usize::from(index)].successor = Some(new);
                Ok(Ok(()))
            }
            Decision::Confirm { key, value } => {
                let known = value_with_hash(tables, &key, value)?;
                let stored = [value.as_bytes().as_slice(), known.as_deref().unwrap_or_default()].concat();
                tables.put_meta(&confirmed_name(key.as_str()), Some(&stored))?;
                Ok(Ok(()))
            }
        }
    }

    fn join(&mut self, author: PeerId) -> Result<(), DecisionError> {
        if self.authors.len() >= AUTHORS_MAX && !self.by_id.contains_key(&author) {
            return Err(DecisionError::TooMany);
        }
        let index = self.author(author);
        let joined = &mut self.authors[usize::from(index)];
        if !joined.member {
            (joined.member, joined.excused) = (true, self.forgotten);
        }
        self.changed.insert(index);
        Ok(())
    }

    fn expel(&mut self, author: PeerId) {
        if let Some(index) = self.by_id.get(&author).copied() {
            self.authors[usize::from(index)].member = false;
            self.changed.insert(index);
            self.peers.remove(&author);
            self.confirmed_us.remove(&author);
            self.gaps.retain(|(_, peer), _| *peer != author);
        }
    }

    fn settle<T: Tables>(
        &mut self,
        tables: &mut T,
        author: PeerId,
        head: Head,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DecisionError>, T::Error> {
        let Some(index) = self.by_id.get(&author).copied() else {
            return Ok(Err(DecisionError::Unknown(author)));
        };
        let ours = self.authors[usize::from(index)].head;
        let there = if head.position == 0 { Some(head) } else { self.head_at(tables, index, head.position)? };
        let keep = match there {
            // Not reached, or reached the same way.
            _ if ours.position < head.position => ours.position,
            // No longer kept, so everybody has it.
            None => head.position,
            Some(there) if there == head => head.position,
            // We are on another branch. What all have acknowledged is common to both.
            Some(_) => self.acknowledged_by_all(index).min(head.position.saturating_sub(1)),
        };
        self.roll_back(tables, index, keep, out)?;
        let author = &mut self.authors[usize::from(index)];
        author.settled = head;
        author.evidence = None;
        self.changed.insert(index);
        Ok(Ok(()))
    }

    /// Takes back what an author wrote after a position. What others wrote there before counts again.
    pub(super) fn roll_back<T: Tables>(
        &mut self,
        tables: &mut T,
        index: u16,
        keep: u64,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        if self.authors[usize::from(index)].head.position <= keep {
            return Ok(());
        }
        let read = |bytes| Segment::decode_own(bytes).map_err(|_| T::corrupt("a segment"));
        // What is taken back is not acknowledged by all, and so the newest part of one log.
        let mut keys = BTreeSet::new();
        while let Some((at, bytes)) = tables.next_segment((index, keep + 1))?
            && at.0 == index
        {
            keys.extend(read(bytes)?.entries().map(|write| write.key.clone()));
            tables.remove_segment(at)?;
            tables.put_garbage(at, None)?;
        }
        let mut before: BTreeMap<Key, Option<Record>> = BTreeMap::new();
        for key in keys {
            let record = tables.swap_record(key.as_str(), None)?;
            before.insert(key, record);
        }
        let revision = self.next_revision();
        let mut from = (0, 0);
        while let Some((at, bytes)) = tables.next_segment(from)? {
            let segment = read(bytes)?;
            let stamp = segment.signed().header.stamp;
            for Write { key, value } in segment.entries().filter(|write| before.contains_key(&write.key)) {
                self.apply_entry(tables, (at, stamp), revision, key, value.as_ref())?;
            }
            from = (at.0, at.1 + 1);
        }
        self.wait_no_longer(tables, index, keep)?;
        let mut writes = Vec::new();
        for (key, before) in before {
            let value: Option<Bytes> = tables.record(key.as_str())?.and_then(|record| record.value);
            if before.and_then(|record| record.value) != value {
                writes.push(Write { key, value });
            }
        }
        out.push(Effect::Applied(Applied { writes, ..Applied::new(revision, None) }));
        let (head, stamp) = match self.header(tables, (index, keep))? {
            Some(header) => (header.head(), header.header.stamp),
            None => (Head::default(), Stamp::default()),
        };
        let author = &mut self.authors[usize::from(index)];
        author.return_to(head, stamp);
        let author = author.id;
        self.changed.insert(index);
        out.push(Effect::Event(Event::RolledBack { author, to: head }));
        for peer in self.peers.values_mut() {
            peer.forget(index, head.position);
        }
        // What was overwritten by it may be collected here and not elsewhere.
        self.start_repair(out);
        Ok(())
    }
}
