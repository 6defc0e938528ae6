use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use orch_consensus::pbft::{Batch, Digest, Message, ReplicaId};

use super::input::Input;
use crate::{NodeId, pbft::group};

/// Number of messages that the Byzantine replica can choose from.
const SEEN_MAX: usize = 64;
const EDITS_MAX: usize = 8;

/// Messages of a Byzantine replica: anything, with its own signature. Mostly a message that it has seen, with
/// a few bytes changed.
#[derive(Debug)]
pub(super) struct Forger {
    node: NodeId,
    seen: VecDeque<Arc<Message>>,
}

impl Forger {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, seen: VecDeque::new() }
    }

    /// Remembers a message.
    pub(super) fn observe(&mut self, message: &Arc<Message>) {
        if self.seen.len() >= SEEN_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back(message.clone());
    }

    /// A message out of nothing: the bytes, as far as they are one.
    pub(super) fn made_up(&self, input: &mut Input<'_>) -> Option<Message> {
        let mut message = Message::from_wire(Bytes::copy_from_slice(input.part()?)).ok()?;
        self.sign(&mut message);
        Some(message)
    }

    /// A message that was seen, counted from the last one, after some edits. Bits of the first byte say
    /// whether it is made consistent in itself, and signed.
    pub(super) fn distorted(&self, input: &mut Input<'_>) -> Option<Message> {
        let how = input.byte()?;
        let back = input.below(SEEN_MAX)?;
        let edits = input.below(EDITS_MAX)?;
        let original = self.seen.iter().rev().nth(back);
        let mut bytes = original.map(|message| message.to_wire()).unwrap_or_default();
        for _ in 0..edits {
            self.edit(&mut bytes, input)?;
        }
        let mut message = Message::from_wire(bytes.into()).ok()?;
        if how & 1 == 0 {
            self.mend(&mut message);
        }
        if how & 2 == 0 {
            self.sign(&mut message);
        }
        Some(message)
    }

    /// Sets one byte, adds to one, or puts the hash of a batch somewhere.
    fn edit(&self, bytes: &mut [u8], input: &mut Input<'_>) -> Option<()> {
        let (what, at) = (input.byte()?, input.number()?);
        let with = input.byte()?;
        match (what % 3, bytes.get_mut(at..)) {
            (0, Some([byte, ..])) => *byte = with,
            (1, Some([byte, ..])) => *byte = byte.wrapping_add(with),
            (2, Some(rest)) if rest.len() >= 32 => rest[..32].copy_from_slice(&self.digest(with).0),
            _ => {}
        }
        Some(())
    }

    fn digest(&self, which: u8) -> Digest {
        let batches = self.seen.iter().rev().filter_map(|message| match &**message {
            Message::PrePrepare(batch, _) => Some(batch.digest()),
            _ => None,
        });
        batches.chain([Batch::null().digest()]).nth(usize::from(which)).unwrap_or(Digest([which; 32]))
    }

    /// Makes a message the Byzantine replica's own, with the digests and signatures that follow.
    fn mend(&self, message: &mut Message) {
        let me = ReplicaId(u32::try_from(self.node).unwrap_or(u32::MAX));
        match message {
            Message::PrePrepare(batch, vote) => {
                vote.replica = me;
                vote.digest = batch.digest();
            }
            Message::Vote(vote) => vote.replica = me,
            Message::Checkpoint(vote) => vote.replica = me,
            Message::ViewChange(change) => {
                let change = Arc::make_mut(change);
                change.summary.replica = me;
                change.summary.prepared =
                    change.prepared.iter().map(|known| (known.seq, known.view, known.digest)).collect();
            }
            Message::NewView(new) => {
                let new = Arc::make_mut(new);
                new.replica = me;
                let key = group::key(self.node);
                for summary in new.summaries.iter_mut().filter(|summary| summary.replica == me) {
                    summary.signature = group::sign(&key, &summary.statement());
                }
            }
            _ => {}
        }
    }

    fn sign(&self, message: &mut Message) {
        message.sign(|statement| group::sign(&group::key(self.node), statement));
    }
}
