//! Anti-entropy: digests, and requests for missing segments.

use std::{collections::BTreeMap, time::Duration};

use orch_core::model::Moment;
use orch_core::transport::PeerId;

use super::{Effect, Replica};
use crate::crdt::{
    message::{Message, SEGMENTS_MAX},
    segment::{Head, Segment, SegmentKey},
    tables::Tables,
};

/// Gaps longer than this are requested at once.
const FEW: u64 = 4;

/// State of a member, by its digests.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// Time of its last digest.
    pub(super) last_seen: Duration,
    /// Nothing was missing there.
    pub(super) complete: bool,
    /// Up to where it has the same logs as we, on its disk.
    acknowledged: BTreeMap<u16, u64>,
    /// The same at the last moment when we had everything that it had.
    covered: BTreeMap<u16, u64>,
}

impl Peer {
    /// Part of a log does not count any more.
    pub(super) fn forget(&mut self, index: u16, after: u64) {
        for known in [&mut self.acknowledged, &mut self.covered] {
            known.entry(index).and_modify(|position| *position = (*position).min(after));
        }
    }
}

/// Segments that somebody else has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// Head position of the log at the peer.
    position: u64,
    /// Time at which the gap became known.
    since: Duration,
}

impl Replica {
    /// Does what is due: sends digests, requests missing segments, collects garbage. To be called again after
    /// some hundred milliseconds; a little differently long in each replica, so that not all speak at once.
    /// `nonce` is 16 random bytes.
    ///
    /// # Errors
    /// When the tables fail; the replica is of no more use then.
    pub fn tick<T: Tables>(
        &mut self,
        tables: &mut T,
        now: Moment,
        nonce: [u8; 16],
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        self.note_time(now);
        let digest = self.digest_message();
        out.extend(self.others().map(|peer| Effect::Send(peer, digest.clone())));
        self.ask(now, out);
        self.repair_tick(tables, now, nonce, out)?;
        self.collect(tables, now)?;
        self.finish(tables)
    }

    fn digest_message(&self) -> Message {
        let heads = self.by_id.iter().map(|(id, index)| (*id, self.authors[usize::from(*index)].head));
        Message::Digest {
            group: self.config.group,
            complete: self.repair.is_none(),
            heads: heads.filter(|(_, head)| head.position > 0).collect(),
        }
    }

    pub(super) fn digest_came<T: Tables>(
        &mut self,
        tables: &T,
        now: Moment,
        from: PeerId,
        complete: bool,
        heads: &[(PeerId, Head)],
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let before = self.peers.get(&from).map(|peer| peer.acknowledged.clone()).unwrap_or_default();
        let mut acknowledged = BTreeMap::new();
        let mut ahead = false;
        let us = self.key.author();
        let mut longer_than_us = false;
        for (author, theirs) in heads {
            let Some(index) = self.by_id.get(author).copied() else { continue };
            let ours = self.authors[usize::from(index)].head;
            // What it had in common with us before is common still, unless it went back.
            let common = before.get(&index).copied().unwrap_or(0).min(theirs.position);
            acknowledged.insert(index, common);
            if theirs.position > ours.position {
                let author = &self.authors[usize::from(index)];
                longer_than_us |= author.id == us;
                // What nobody may take can stay there.
                let settled = author.settled;
                let useful = match ours.position < settled.position {
                    // On the way to what was decided, only those help who have got there.
                    true => theirs.position > settled.position || *theirs == settled,
                    false => author.member,
                };
                if author.evidence.is_none() && useful {
                    ahead = true;
                    let gap = Gap { position: theirs.position, since: now.elapsed };
                    self.gaps.entry((index, from)).or_insert(gap).position = theirs.position;
                }
                continue;
            }
            match self.head_at(tables, index, theirs.position)? {
                Some(here) if here != *theirs => {
                    acknowledged.insert(index, common.min(theirs.position.saturating_sub(1)));
                    self.show_fork(tables, index, theirs.position, from, out)?;
                }
                // What is no longer kept was acknowledged by all.
                _ => {
                    acknowledged.insert(index, theirs.position);
                }
            }
        }
        if !longer_than_us {
            self.confirmed_us.insert(from);
        }
        let peer = self.peers.entry(from).or_default();
        peer.last_seen = now.elapsed;
        peer.complete = complete;
        if complete {
            if !ahead {
                peer.covered.clone_from(&acknowledged);
            }
            peer.acknowledged = acknowledged;
        }
        self.ask(now, out);
        Ok(())
    }

    /// Sends what we have at a position where somebody has something else.
    fn show_fork<T: Tables>(
        &self,
        tables: &T,
        index: u16,
        position: u64,
        to: PeerId,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let author = &self.authors[usize::from(index)];
        if let Some(evidence) = author.evidence {
            out.push(Effect::Send(to, Message::Evidence(Box::new(evidence))));
        } else if let Some(bytes) = tables.segment((index, position))? {
            let (author, after) = (author.id, position - 1);
            out.push(Effect::Send(to, Message::Supply { author, after, more: false, segments: vec![bytes] }));
        }
        Ok(())
    }

    /// Asks for what is missing and does not come by itself: of each author one member at a time, and who was
    /// known first to have it first.
    fn ask(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let repairing = self.repair.is_some();
        let Self { config, authors, gaps, asking, .. } = self;
        asking.retain(|index, (peer, asked)| {
            let late = now.elapsed.saturating_sub(*asked) >= config.answer_timeout;
            if late {
                gaps.remove(&(*index, *peer));
            }
            !late
        });
        gaps.retain(|(index, _), gap| {
            let author = &authors[usize::from(*index)];
            author.evidence.is_none() && author.head.position < gap.position
        });
        asking.retain(|index, (peer, _)| gaps.contains_key(&(*index, *peer)));
        let mut due: Vec<_> = gaps
            .iter()
            .filter(|((index, _), gap)| {
                let missing = gap.position - authors[usize::from(*index)].head.position;
                let waited = now.elapsed.saturating_sub(gap.since);
                repairing || missing > FEW || waited >= config.request_grace
            })
            .map(|((index, peer), gap)| {
                // The author knows best what is left of its log.
                (authors[usize::from(*index)].id != *peer, gap.since, *index, *peer)
            })
            .collect();
        due.sort_unstable();
        for (_, _, index, peer) in due {
            if let std::collections::btree_map::Entry::Vacant(free) = asking.entry(index) {
                free.insert((peer, now.elapsed));
                let author = &authors[usize::from(index)];
                out.push(Effect::Send(peer, Message::Want { author: author.id, after: author.head }));
            }
        }
    }

    /// Asks for the next part of what just came.
    pub(super) fn want_more(&mut self, now: Moment, from: PeerId, author: PeerId, out: &mut Vec<Effect>) {
        let Some(index) = self.by_id.get(&author) else { return };
        if self.gaps.contains_key(&(*index, from)) {
            self.asking.insert(*index, (from, now.elapsed));
            let after = self.authors[usize::from(*index)].head;
            out.push(Effect::Send(from, Message::Want { author, after }));
        }
    }

    pub(super) fn wanted<T: Tables>(
        &self,
        tables: &T,
        from: PeerId,
        author: PeerId,
        after: Head,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let Some(index) = self.by_id.get(&author).copied() else { return Ok(()) };
        if let Some(evidence) = self.authors[usize::from(index)].evidence {
            out.push(Effect::Send(from, Message::Evidence(Box::new(evidence))));
            return Ok(());
        }
        let same = match self.head_at(tables, index, after.position)? {
            Some(ours) => ours == after,
            None => true,
        };
        if !same {
            return self.show_fork(tables, index, after.position, from, out);
        }
        let mut segments = Vec::new();
        let mut bytes = 0;
        let mut next = tables.next_segment((index, after.position + 1))?;
        while let Some((at, segment)) = next.take_if(|(at, _)| at.0 == index) {
            let full = bytes + segment.len() > self.config.message_bytes || segments.len() == SEGMENTS_MAX;
            if !segments.is_empty() && full {
                next = Some((at, segment));
                break;
            }
            bytes += segment.len();
            segments.push(segment);
            next = tables.next_segment((index, at.1 + 1))?;
        }
        if !segments.is_empty() {
            let (more, after) = (next.is_some_and(|(at, _)| at.0 == index), after.position);
            out.push(Effect::Send(from, Message::Supply { author, after, more, segments }));
        }
        Ok(())
    }

    /// Up to where every member has the author's log, except those that are offline. Where f members may lie,
    /// 2f + 1 have to be there, so that f + 1 honest ones keep what counts.
    pub(super) fn acknowledged_by_all(&self, index: u16) -> u64 {
        let own = self.authors[usize::from(index)].head.position;
        let enough = 2 * (self.config.confirmations.get() - 1);
        let here = self.others().filter(|peer| !self.is_offline(*peer)).count();
        let counts = |peer: &PeerId| here < enough || !self.is_offline(*peer);
        let known = self.others().filter(counts).map(|peer| {
            self.peers.get(&peer).and_then(|peer| peer.acknowledged.get(&index)).copied().unwrap_or(0)
        });
        known.fold(own, u64::min)
    }

    /// Up to where every member, without exception, has the author's log, and we had all that it had at that
    /// moment: nothing that is older than this can come any more.
    pub(super) fn covered_by_all(&self, index: u16) -> u64 {
        let own = self.authors[usize::from(index)].head.position;
        let known = self.others().map(|peer| {
            self.peers.get(&peer).and_then(|peer| peer.covered.get(&index)).copied().unwrap_or(0)
        });
        known.fold(own, u64::min)
    }

    /// True if everything is here that this member is known to have.
    pub(super) fn has_no_gap_to(&self, peer: PeerId) -> bool {
        !self.gaps.iter().any(|((index, from), gap)| {
            *from == peer && self.authors[usize::from(*index)].head.position < gap.position
        })
    }

    pub(super) fn is_offline(&self, peer: PeerId) -> bool {
        let (began, now) = self.step_times.unwrap_or_default();
        let last_seen = self.peers.get(&peer).map_or(began, |peer| peer.last_seen);
        now.saturating_sub(last_seen) > self.config.offline_after
    }

    /// Notes the time of a step.
    pub(super) fn note_time(&mut self, now: Moment) {
        self.step_times.get_or_insert((now.elapsed, now.elapsed)).1 = now.elapsed;
    }

    /// The segment under a key, which was checked before.
    pub(super) fn own_segment<T: Tables>(
        &self,
        tables: &T,
        at: SegmentKey,
    ) -> Result<Option<Segment>, T::Error> {
        let Some(bytes) = tables.segment(at)? else { return Ok(None) };
        Segment::decode_own(bytes).map(Some).map_err(|_| T::corrupt("a segment"))
    }
}
