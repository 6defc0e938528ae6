//! Segments and evidence from others.

use std::collections::BTreeMap;

use bytes::Bytes;
use orch_core::{model::Moment, store::Write, transport::PeerId};

use super::{Effect, Event, Repair, Replica};
use crate::crdt::{
    applied::Applied,
    clock::Stamp,
    message::{Evidence, Message},
    segment::{Head, Segment, SegmentKey, SignedHeader},
    tables::Tables,
};

/// Logs of which it is noted what somebody says of them.
const CLAIMS_MAX: usize = 64;

/// A member's claim of what is left of a log after a position: segments, and whether they are complete.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    after: u64,
    left: BTreeMap<u64, bool>,
}

/// Result of a supply of segments.
pub(super) enum Taken {
    /// Everything in it is here now.
    All,
    /// Something in it cannot be taken (now).
    Stopped,
}

impl Replica {
    /// Takes in what a member sent.
    ///
    /// # Errors
    /// When the tables fail; the replica is of no more use then.
    pub fn receive<T: Tables>(
        &mut self,
        tables: &mut T,
        now: Moment,
        from: PeerId,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        self.note_time(now);
        // Who is no member has no part in this, but what members signed counts whoever brings it.
        if !self.members().any(|member| member == from) {
            return Ok(());
        }
        match message {
            Message::Digest { group, complete, heads } if group == self.config.group => {
                self.digest_came(tables, now, from, complete, &heads, out)?;
            }
            Message::Digest { .. } => {}
            Message::Want { author, after } => self.wanted(tables, from, author, after, out)?,
            Message::Supply { author, after, more, segments } => {
                let taken = self.supplied(tables, now, from, (author, after), segments, out)?;
                if let (true, Taken::All) = (more, taken) {
                    self.want_more(now, from, author, out);
                }
            }
            Message::Evidence(evidence) => self.accuse(*evidence, out),
            Message::Compare { nonce, ranges } => self.compare_asked(tables, from, nonce, &ranges, out)?,
            Message::Compared { nonce, answers } => {
                self.compared(tables, now, from, nonce, answers, out)?;
            }
            Message::Fetch { items } => self.fetch_asked(tables, from, items, out)?,
            Message::Patch { segments } => self.patched(tables, now, from, segments, out)?,
        }
        self.finish(tables)
    }

    fn supplied<T: Tables>(
        &mut self,
        tables: &mut T,
        now: Moment,
        from: PeerId,
        (author, after): (PeerId, u64),
        segments: Vec<Bytes>,
        out: &mut Vec<Effect>,
    ) -> Result<Taken, T::Error> {
        let Some(index) = self.by_id.get(&author).copied() else { return Ok(Taken::Stopped) };
        let mut covered = after;
        self.note_claim(index, from, after, &segments);
        for bytes in segments {
            let refused = |why| Effect::Event(Event::Refused { from, author, why });
            let segment = match Segment::decode(bytes.clone()) {
                Ok(segment) => segment,
                Err(error) => {
                    out.push(refused(error.0));
                    return Ok(Taken::Stopped);
                }
            };
            let header = segment.signed().header;
            if header.group != self.config.group || header.author != author || header.position <= covered {
                out.push(refused("it is not what it was sent as"));
                return Ok(Taken::Stopped);
            }
            let head = self.authors[usize::from(index)].head;
            if header.position <= head.position {
                if self.is_other_branch(tables, index, segment.signed())? {
                    let keep = self.acknowledged_by_all(index).min(header.position - 1);
                    self.roll_back(tables, index, keep, out)?;
                    return Ok(Taken::Stopped);
                }
                self.compare_headers(tables, index, segment.signed(), out)?;
                covered = header.position;
                continue;
            }
            if covered > head.position {
                // Something before it was lost on the way. It comes again with the next digest.
                return Ok(Taken::Stopped);
            }
            covered = header.position;
            let next = header.position == head.position + 1 && segment.is_complete();
            if !next && !self.may_leave_out(index, from, &segment) {
                // Others may say more. Who is asked next is somebody else.
                self.gaps.remove(&(index, from));
                return Ok(Taken::Stopped);
            }
            match self.judge(now, index, &segment) {
                Ok(()) => self.apply(tables, index, &segment, &bytes, out)?,
                Err(Fault::Ahead) => {
                    out.push(Effect::Event(Event::Ahead { author, time: header.stamp.time() }));
                    return Ok(Taken::Stopped);
                }
                Err(Fault::Silent) => return Ok(Taken::Stopped),
                Err(Fault::Fork) => {
                    // One of us has another log than the other; the segments at our head show it to both.
                    out.push(Effect::Send(from, Message::Want { author, after: head }));
                    return Ok(Taken::Stopped);
                }
                Err(Fault::WrongBranch) => {
                    let keep = self.acknowledged_by_all(index);
                    self.roll_back(tables, index, keep, out)?;
                    return Ok(Taken::Stopped);
                }
                Err(Fault::Refused(why)) => {
                    out.push(refused(why));
                    return Ok(Taken::Stopped);
                }
            }
        }
        Ok(Taken::All)
    }

    /// Notes what a member says is left of a log. Where nobody lies there is no need to compare that.
    fn note_claim(&mut self, index: u16, from: PeerId, after: u64, segments: &[Bytes]) {
        if self.config.confirmations.get() == 1 || from == self.authors[usize::from(index)].id {
            return;
        }
        let left: Option<BTreeMap<u64, bool>> = segments
            .iter()
            .map(|bytes| Segment::decode_own(bytes.clone()).ok())
            .map(|segment| segment.map(|segment| (segment.signed().header.position, segment.is_complete())))
            .collect();
        let Some(left) = left else { return };
        // Fresh segments say nothing about what is left of older ones.
        if left.iter().next().is_some_and(|(first, complete)| *first == after + 1 && *complete)
            && left.len() == 1
        {
            return;
        }
        if self.claims.len() >= CLAIMS_MAX && !self.claims.contains_key(&(index, from)) {
            self.claims.pop_first();
        }
        self.claims.insert((index, from), Claim { after, left });
    }

    /// True if enough members say that nothing more is left of a log, between our head and this segment and
    /// in it: the author, or so many that one of them tells the truth. What is left out is then looked for by
    /// comparing; this keeps a liar from hiding what few have so far.
    fn may_leave_out(&self, index: u16, from: PeerId, segment: &Segment) -> bool {
        let needed = self.config.confirmations.get();
        let author = &self.authors[usize::from(index)];
        if needed == 1 || from == author.id {
            return true;
        }
        let (head, position) = (author.head.position, segment.signed().header.position);
        let says_so = |claim: &Claim| {
            let reaches =
                claim.after <= head && claim.left.keys().next_back().is_some_and(|last| *last >= position);
            let between = claim.left.range(head + 1..position).next().is_some();
            reaches && !between && (segment.is_complete() || claim.left.get(&position) != Some(&true))
        };
        let claims =
            self.claims.range((index, PeerId::from_bytes([0; 32]))..=(index, PeerId::from_bytes([255; 32])));
        claims.filter(|(_, claim)| says_so(claim)).count() >= needed
    }

    /// True if a segment after our head may be applied.
    fn judge(&self, now: Moment, index: u16, segment: &Segment) -> Result<(), Fault> {
        let author = &self.authors[usize::from(index)];
        let SignedHeader { header, .. } = segment.signed();
        if author.evidence.is_some() {
            return Err(Fault::Silent);
        }
        let settled = author.settled;
        if header.position > settled.position && !author.member {
            return Err(Fault::Silent);
        }
        if header.stamp <= author.stamp {
            return Err(Fault::Refused("its stamp is not after that of the segment before it"));
        }
        if !segment.signed().is_genuine() {
            return Err(Fault::Refused("its author did not sign it"));
        }
        let follows = header.position == author.head.position + 1;
        if follows && header.previous != author.head.hash {
            // On the way to a decided position, ours may be the branch that does not lead there.
            let undecided = header.position > settled.position;
            return Err(if undecided { Fault::Fork } else { Fault::WrongBranch });
        }
        let settles = header.position == settled.position && segment.signed().hash() != settled.hash;
        let crosses = header.position == settled.position + 1 && header.previous != settled.hash;
        if settles || crosses {
            return Err(Fault::WrongBranch);
        }
        if self.is_forgotten(index, header.stamp) && header.position > settled.position {
            return Err(Fault::Refused("it is older than deletes that its author had observed"));
        }
        if header.stamp.is_ahead(now.wall, self.config.skew_max) {
            return Err(Fault::Ahead);
        }
        if segment.entries().any(|write| self.foreign_owner(author.id, &write.key).is_some()) {
            return Err(Fault::Refused("it writes to keys that belong to another author"));
        }
        Ok(())
    }

    /// True if deletes that were forgotten here are later than this, and its author had observed them.
    fn is_forgotten(&self, index: u16, stamp: Stamp) -> bool {
        stamp <= self.forgotten && stamp > self.authors[usize::from(index)].excused
    }

    fn apply<T: Tables>(
        &mut self,
        tables: &mut T,
        index: u16,
        segment: &Segment,
        bytes: &[u8],
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let header = segment.signed().header;
        // A decision says that it counts, and a delete that is forgotten may have hidden some of it: what is
        // left is what the others still name.
        let hidden = self.is_forgotten(index, header.stamp).then(|| {
            let mut hidden = segment.clone();
            hidden.prune(|_| false);
            let bytes = hidden.encode();
            (hidden, bytes)
        });
        let (segment, bytes) = hidden.as_ref().map_or((segment, bytes), |(segment, bytes)| (segment, bytes));
        let author = &mut self.authors[usize::from(index)];
        let gap = header.position > author.head.position + 1;
        author.reach(segment.signed().head(), header.stamp);
        self.changed.insert(index);
        self.clock.saw(header.stamp);
        let at = (index, header.position);
        tables.put_segment(at, bytes, self.revision.next())?;
        if gap || !segment.is_complete() {
            self.start_repair(out);
        }
        self.apply_entries(tables, at, segment, out)
    }

    /// Takes the entries of a segment, which was stored, into the view: as one revision, the next one.
    pub(super) fn apply_entries<T: Tables>(
        &mut self,
        tables: &mut T,
        at: SegmentKey,
        segment: &Segment,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let mut applied = Applied::new(self.next_revision(), Some(at));
        let stamp = segment.signed().header.stamp;
        for (leaf, Write { key, value }) in segment.leaves() {
            if value.is_none() {
                // Collecting looks here again once everybody knows of the delete.
                self.garbage.entry(at).or_default().deletes = true;
            }
            if self.apply_entry(tables, (at, stamp), applied.revision, key, value.as_ref())? {
                applied.writes.push(Write { key: key.clone(), value: value.clone() });
                applied.kept.iter_mut().for_each(|kept| kept.leaves.push(leaf));
            }
        }
        out.push(Effect::Applied(applied));
        Ok(())
    }

    /// From here on something may be missing that the others have collected.
    pub(super) fn start_repair(&mut self, out: &mut Vec<Effect>) {
        if self.repair.is_none() {
            self.repair = Some(Repair::default());
            self.meta_changed = true;
            out.push(Effect::Event(Event::RepairStarted));
        }
    }

    /// True if ours may be the branch that does not lead to where a decision said that the log goes. Then we
    /// go back to what is common, and take what comes.
    fn is_other_branch<T: Tables>(
        &self,
        tables: &T,
        index: u16,
        theirs: &SignedHeader,
    ) -> Result<bool, T::Error> {
        let author = &self.authors[usize::from(index)];
        if author.settled.position <= author.head.position {
            return Ok(false);
        }
        let ours = self.header(tables, (index, theirs.header.position))?;
        Ok(ours.is_some_and(|ours| ours.header != theirs.header) && theirs.is_genuine())
    }

    /// Compares a header with the one that we have at its position.
    pub(super) fn compare_headers<T: Tables>(
        &mut self,
        tables: &T,
        index: u16,
        theirs: &SignedHeader,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let position = theirs.header.position;
        if self.authors[usize::from(index)].recent(position).is_some_and(|head| head == theirs.head()) {
            return Ok(());
        }
        if let Some(ours) = self.header(tables, (index, position))?
            && ours.header != theirs.header
        {
            self.accuse(Evidence { first: ours, second: *theirs }, out);
        }
        Ok(())
    }

    /// The header under a key, if the segment is kept.
    pub(super) fn header<T: Tables>(
        &self,
        tables: &T,
        at: SegmentKey,
    ) -> Result<Option<SignedHeader>, T::Error> {
        Ok(self.own_segment(tables, at)?.map(|segment| *segment.signed()))
    }

    /// Keeps evidence and sends it to everybody, once.
    fn accuse(&mut self, evidence: Evidence, out: &mut Vec<Effect>) {
        let Some(index) = self.by_id.get(&evidence.author()).copied() else { return };
        let author = &self.authors[usize::from(index)];
        // What a decision has settled is over.
        let over = evidence.first.header.position <= author.settled.position;
        if over || author.evidence.is_some() || !evidence.is_proof(self.config.group) {
            return;
        }
        self.authors[usize::from(index)].evidence = Some(evidence);
        self.changed.insert(index);
        out.extend(self.others().map(|peer| Effect::Send(peer, Message::Evidence(Box::new(evidence)))));
        out.push(Effect::Event(Event::Evidence(Box::new(evidence))));
    }

    /// Head of an author's log at a position; `None` when that is no longer kept.
    pub(super) fn head_at<T: Tables>(
        &self,
        tables: &T,
        index: u16,
        position: u64,
    ) -> Result<Option<Head>, T::Error> {
        match self.authors[usize::from(index)].recent(position) {
            Some(head) => Ok(Some(head)),
            None => Ok(self.header(tables, (index, position))?.map(|header| header.head())),
        }
    }
}

/// Why a segment is not applied.
enum Fault {
    /// No event is needed.
    Silent,
    /// Not yet.
    Ahead,
    /// It does not follow on what we have.
    Fork,
    /// A decision says otherwise than what we have, below it or there.
    WrongBranch,
    /// Not this one and nothing after it.
    Refused(&'static str),
}
