//! Finding what is missing after a gap: comparing ranges of keys by fingerprints, after Meyer, "Range-Based
//! Set Reconciliation", SRDS 2023. Whoever misses something asks, one member after the other; the others keep
//! no state.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
    time::Duration,
};

use bytes::Bytes;
use orch_core::{model::Moment, store::Key, transport::PeerId};

use super::{Effect, Event, Replica};
use crate::crdt::{
    clock::Stamp,
    message::{Difference, Fingerprint, Item, Message, RANGES_MAX, Range},
    segment::Segment,
    tables::{Lookup, Tables},
};

/// A range with at most so many entries is answered with them.
const FEW: u64 = 32;
/// Into how many parts a longer one is divided.
const PARTS: u64 = 16;
/// Ranges of one request.
const ASK_MAX: usize = 16;
/// Entries that are asked for in one message.
const FETCH_MAX: usize = 256;
/// Questions of one session, and ranges that wait in it: enough for some million entries that differ. Who
/// wants to be asked more is left, and somebody else is asked.
const REQUESTS_MAX: u32 = 16_384;
const WAITING_MAX: usize = 4096;
/// Entries that are waiting for more members to name them. Beyond, they are found in the next round.
const VOTES_MAX: usize = 1 << 16;

/// State of a repair, while something may be missing.
#[derive(Clone, Debug, Default)]
pub(super) struct Repair {
    session: Option<Session>,
    /// With whom everything has been compared.
    done: BTreeSet<PeerId>,
    /// Peer that was asked last.
    last: Option<PeerId>,
    /// Entries that members named and we do not have.
    votes: BTreeMap<Item, BTreeSet<PeerId>>,
}

/// Comparing with one member.
#[derive(Clone, Debug)]
struct Session {
    peer: PeerId,
    nonce: [u8; 16],
    /// Ranges still to compare, the parts of a range before those that follow it.
    ranges: Vec<Range>,
    /// Ranges that were requested and not answered yet.
    asked: Vec<Range>,
    /// Entries to ask for, and those that were asked for.
    wanted: BTreeSet<Item>,
    fetching: BTreeSet<Item>,
    since: Duration,
    requests: u32,
}

impl Replica {
    /// Goes on with comparing, or begins it.
    pub(super) fn repair_tick<T: Tables>(
        &mut self,
        tables: &T,
        now: Moment,
        nonce: [u8; 16],
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let Some(mut repair) = self.repair.take() else { return Ok(()) };
        repair.done.retain(|peer| self.others().any(|member| member == *peer));
        if self.is_repaired(tables, &repair)? {
            self.meta_changed = true;
            out.push(Effect::Event(Event::RepairFinished));
            return Ok(());
        }
        if let Some(session) = &repair.session
            && now.elapsed.saturating_sub(session.since) >= self.config.answer_timeout
        {
            repair.session = None;
        }
        if repair.session.is_none()
            && let Some(peer) = self.next_to_compare(&repair)
        {
            repair.last = Some(peer);
            repair.session = Some(Session {
                peer,
                nonce,
                ranges: vec![Range::all()],
                asked: Vec::new(),
                wanted: BTreeSet::new(),
                fetching: BTreeSet::new(),
                since: now.elapsed,
                requests: 0,
            });
            self.go_on(tables, now, &mut repair, out)?;
        }
        if repair.session.is_none() && !repair.done.is_empty() {
            // Who can be asked was asked, and that was not enough: what they say may have changed meanwhile.
            repair.done.clear();
            repair.votes.clear();
        }
        self.repair = Some(repair);
        Ok(())
    }

    /// True if enough members were compared with. Let f of them lie. Of 2f + 1, f + 1 tell the truth and name
    /// every entry that there is. Of all but f, where that is fewer, so many may be silent, and the others
    /// name the same.
    fn is_repaired<T: Tables>(&self, tables: &T, repair: &Repair) -> Result<bool, T::Error> {
        let lying = self.config.confirmations.get() - 1;
        let (done, others) = (repair.done.len(), self.others().count());
        if done < others.min(2 * lying + 1) && (done == 0 || done + lying < others) {
            return Ok(false);
        }
        let certain = done >= others.min(2 * lying + 1);
        for (item, votes) in &repair.votes {
            // Of enough members, what fewer name than tell the truth is a lie.
            if certain && votes.len() <= lying {
                continue;
            }
            // And what its author does not name any more is over.
            if repair.done.contains(&item.author) && !votes.contains(&item.author) {
                continue;
            }
            // What has lost here already changes nothing visible.
            let record = tables.record(item.key.as_str())?;
            let newer = record.is_some_and(|record| record.stamp >= item.stamp);
            if !newer {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A member of which we have all segments: first one that has everything itself. Those that are under
    /// repair too may have what is missing here, and wait for us.
    fn next_to_compare(&self, repair: &Repair) -> Option<PeerId> {
        let ready = |peer: &PeerId, complete: bool| {
            !repair.done.contains(peer)
                && self.peers.get(peer).is_some_and(|known| known.complete == complete)
                && !self.is_offline(*peer)
                && self.has_no_gap_to(*peer)
        };
        let after = |peer: &PeerId| repair.last.is_none_or(|last| *peer > last);
        [true, false].into_iter().find_map(|complete| {
            let next = self.others().filter(after).find(|peer| ready(peer, complete));
            next.or_else(|| self.others().find(|peer| ready(peer, complete)))
        })
    }

    /// Sends the next request of a session, or ends it.
    fn go_on<T: Tables>(
        &mut self,
        tables: &T,
        now: Moment,
        repair: &mut Repair,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let Some(session) = &mut repair.session else { return Ok(()) };
        session.since = now.elapsed;
        session.requests += 1;
        if session.requests > REQUESTS_MAX || session.ranges.len() > WAITING_MAX {
            repair.session = None;
            return Ok(());
        }
        if !session.wanted.is_empty() {
            while session.fetching.len() < FETCH_MAX
                && let Some(item) = session.wanted.pop_first()
            {
                session.fetching.insert(item);
            }
            let items = session.fetching.iter().cloned().collect();
            out.push(Effect::Send(session.peer, Message::Fetch { items }));
        } else if !session.ranges.is_empty() {
            let first = session.ranges.len().saturating_sub(ASK_MAX);
            session.asked = session.ranges.split_off(first);
            let mut ranges = Vec::new();
            for range in &session.asked {
                ranges.push((range.clone(), self.fingerprint(tables, range, &session.nonce)?));
            }
            out.push(Effect::Send(session.peer, Message::Compare { nonce: session.nonce, ranges }));
        } else {
            repair.done.insert(session.peer);
            repair.session = None;
        }
        Ok(())
    }

    pub(super) fn compare_asked<T: Tables>(
        &self,
        tables: &T,
        from: PeerId,
        nonce: [u8; 16],
        ranges: &[(Range, Fingerprint)],
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let mut answers = Vec::new();
        for (range, theirs) in ranges.iter().take(ASK_MAX) {
            let ours = self.fingerprint(tables, range, &nonce)?;
            let difference = if ours == *theirs {
                Difference::None
            } else if ours.count <= FEW {
                let mut items = Vec::new();
                self.each_item(tables, range, &mut |entry| {
                    let ViewEntry { author, position, stamp, deleted, .. } = *entry;
                    let key = Key::new(entry.key).map_err(|_| T::corrupt("a key"))?;
                    items.push(Item { key, author, position, stamp, deleted });
                    Ok(())
                })?;
                Difference::Items(items)
            } else {
                Difference::Parts(self.parts(tables, range, &nonce, ours.count)?)
            };
            answers.push((range.clone(), difference));
        }
        out.push(Effect::Send(from, Message::Compared { nonce, answers }));
        Ok(())
    }

    /// Divides a range so that the parts have about the same number of entries.
    fn parts<T: Tables>(
        &self,
        tables: &T,
        range: &Range,
        nonce: &[u8; 16],
        count: u64,
    ) -> Result<Vec<(Range, Fingerprint)>, T::Error> {
        let each = count.div_ceil(PARTS);
        let mut parts: Vec<(Range, Fingerprint)> = vec![(range.clone(), Fingerprint::default())];
        let hasher = keyed(nonce);
        self.each_item(tables, range, &mut |entry| {
            let (part, print) = parts.last_mut().expect("there is a first");
            // The entries of one key stay together.
            if print.count >= each && *part.from < *entry.key {
                part.to = Some(entry.key.to_owned());
                let rest = Range { from: entry.key.to_owned(), to: range.to.clone() };
                parts.push((rest, Fingerprint::default()));
            }
            let (_, print) = parts.last_mut().expect("there is a first");
            print.add(&hasher, entry);
            Ok(())
        })?;
        debug_assert!(parts.len() <= RANGES_MAX);
        Ok(parts)
    }

    pub(super) fn compared<T: Tables>(
        &mut self,
        tables: &T,
        now: Moment,
        from: PeerId,
        nonce: [u8; 16],
        answers: Vec<(Range, Difference)>,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let Some(mut repair) = self.repair.take() else { return Ok(()) };
        let expected = repair.session.as_ref().is_some_and(|session| {
            session.peer == from
                && session.nonce == nonce
                && session.asked.len() == answers.len()
                && answers.iter().zip(&session.asked).all(|((range, _), asked)| range == asked)
        });
        if expected {
            for (range, difference) in answers {
                match difference {
                    Difference::None => {}
                    Difference::Parts(parts) => {
                        self.parts_came(tables, &range, parts, &mut repair)?;
                    }
                    Difference::Items(items) => self.items_came(tables, items, &mut repair)?,
                }
            }
            if let Some(session) = &mut repair.session {
                session.asked.clear();
            }
            self.go_on(tables, now, &mut repair, out)?;
        }
        self.repair = Some(repair);
        Ok(())
    }

    /// Looks closer at the parts that differ. They have to be parts of what was asked for, so that each
    /// answer leads on.
    fn parts_came<T: Tables>(
        &self,
        tables: &T,
        range: &Range,
        parts: Vec<(Range, Fingerprint)>,
        repair: &mut Repair,
    ) -> Result<(), T::Error> {
        let Some(session) = &mut repair.session else { return Ok(()) };
        for (part, theirs) in parts {
            let within = range.holds(&part.from)
                && part != *range
                && match (&part.to, &range.to) {
                    (Some(part), Some(range)) => part <= range,
                    (None, Some(_)) => false,
                    (_, None) => true,
                };
            if within && self.fingerprint(tables, &part, &session.nonce)? != theirs {
                session.ranges.push(part);
            }
        }
        Ok(())
    }

    /// Notes what they have and we do not. Of a log that we have not reached yet it comes by itself.
    fn items_came<T: Tables>(
        &self,
        tables: &T,
        items: Vec<Item>,
        repair: &mut Repair,
    ) -> Result<(), T::Error> {
        let Some(session) = &mut repair.session else { return Ok(()) };
        for item in items {
            let Some(index) = self.by_id.get(&item.author).copied() else { continue };
            let record = tables.record(item.key.as_str())?;
            let at = (index, item.position);
            let here = record.is_some_and(|record| record.segments().any(|segment| segment == at));
            if here || item.position > self.authors[usize::from(index)].head.position {
                continue;
            }
            if repair.votes.len() < VOTES_MAX || repair.votes.contains_key(&item) {
                let votes = repair.votes.entry(item.clone()).or_default();
                votes.insert(session.peer);
                // An author knows best what it wrote; it could write it again anyway. And a delete that was
                // forgotten here hides nothing visible: everything before it is collected.
                let harmless = item.deleted || session.peer == item.author;
                if harmless || votes.len() >= self.config.confirmations.get() {
                    session.wanted.insert(item);
                }
            }
        }
        Ok(())
    }

    pub(super) fn fetch_asked<T: Tables>(
        &self,
        tables: &T,
        from: PeerId,
        items: Vec<Item>,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let mut by_segment: BTreeMap<_, BTreeSet<Key>> = BTreeMap::new();
        for item in items.into_iter().take(FETCH_MAX) {
            if let Some(index) = self.by_id.get(&item.author) {
                by_segment.entry((*index, item.position)).or_default().insert(item.key);
            }
        }
        let mut segments: Vec<Bytes> = Vec::new();
        let mut bytes = 0;
        for (at, keys) in by_segment {
            let Some(mut segment) = self.own_segment(tables, at)? else { continue };
            segment.prune(|write| keys.contains(&write.key));
            let segment = Bytes::from(segment.encode());
            bytes += segment.len();
            if bytes > self.config.message_bytes && !segments.is_empty() {
                break;
            }
            segments.push(segment);
        }
        out.push(Effect::Send(from, Message::Patch { segments }));
        Ok(())
    }

    pub(super) fn patched<T: Tables>(
        &mut self,
        tables: &mut T,
        now: Moment,
        from: PeerId,
        segments: Vec<Bytes>,
        out: &mut Vec<Effect>,
    ) -> Result<(), T::Error> {
        let Some(mut repair) = self.repair.take() else { return Ok(()) };
        let asked = match &mut repair.session {
            Some(session) if session.peer == from => std::mem::take(&mut session.fetching),
            _ => BTreeSet::new(),
        };
        if !asked.is_empty() {
            let mut came = false;
            for bytes in segments {
                came |= self.patch(tables, from, bytes, &asked, out)?;
            }
            for item in asked {
                if self.has(tables, &item)? {
                    repair.votes.remove(&item);
                } else if let (true, Some(session)) = (came, &mut repair.session) {
                    // An answer may hold a part of what was asked for only.
                    session.wanted.insert(item);
                }
            }
            self.go_on(tables, now, &mut repair, out)?;
        }
        self.repair = Some(repair);
        Ok(())
    }

    /// Takes in the entries of a segment that were asked for. Says whether there were any.
    fn patch<T: Tables>(
        &mut self,
        tables: &mut T,
        from: PeerId,
        bytes: Bytes,
        asked: &BTreeSet<Item>,
        out: &mut Vec<Effect>,
    ) -> Result<bool, T::Error> {
        let Ok(mut segment) = Segment::decode(bytes) else { return Ok(false) };
        let header = segment.signed().header;
        let Some(index) = self.by_id.get(&header.author).copied() else { return Ok(false) };
        let author = &self.authors[usize::from(index)];
        if header.group != self.config.group
            || header.position > author.head.position
            || author.evidence.is_some()
            || !segment.signed().is_genuine()
        {
            let (author, why) = (header.author, "a patch is not what was asked for");
            out.push(Effect::Event(Event::Refused { from, author, why }));
            return Ok(false);
        }
        segment.prune(|write| {
            asked.contains(&Item {
                key: write.key.clone(),
                author: header.author,
                position: header.position,
                stamp: header.stamp,
                deleted: write.value.is_none(),
            }) && self.foreign_owner(header.author, &write.key).is_none()
        });
        if segment.entries().next().is_none() {
            return Ok(false);
        }
        let at = (index, header.position);
        let stored = match self.own_segment(tables, at)? {
            None => segment.clone(),
            Some(ours) if ours.signed().header != header => {
                self.compare_headers(tables, index, segment.signed(), out)?;
                return Ok(false);
            }
            Some(mut ours) => {
                ours.join(segment.clone());
                ours
            }
        };
        tables.put_segment(at, &stored.encode(), self.revision.next())?;
        self.apply_entries(tables, at, &segment, out)?;
        Ok(true)
    }

    fn has<T: Tables>(&self, tables: &T, item: &Item) -> Result<bool, T::Error> {
        let Some(index) = self.by_id.get(&item.author) else { return Ok(false) };
        let Some(segment) = self.own_segment(tables, (*index, item.position))? else { return Ok(false) };
        Ok(segment.entries().any(|write| write.key == item.key))
    }

    fn fingerprint<T: Tables>(
        &self,
        tables: &T,
        range: &Range,
        nonce: &[u8; 16],
    ) -> Result<Fingerprint, T::Error> {
        let mut print = Fingerprint::default();
        let hasher = keyed(nonce);
        self.each_item(tables, range, &mut |entry| {
            print.add(&hasher, entry);
            Ok(())
        })?;
        Ok(print)
    }

    /// Shows the entries that the view of a range is made of.
    fn each_item<T: Tables>(&self, tables: &T, range: &Range, visit: Visit<'_, T>) -> Result<(), T::Error> {
        let mut result = Ok(());
        tables.each_record(Bound::Included(&range.from), &mut |key, record| {
            if !range.ends_after(key) {
                return ControlFlow::Break(());
            }
            let first = std::iter::once((record.at, record.stamp, record.value.is_none()));
            let others = record.others.iter().map(|other| (other.at, other.stamp, other.hash.is_none()));
            for (at, stamp, deleted) in first.chain(others) {
                let author = self.authors[usize::from(at.0)].id;
                result = visit(&ViewEntry { key, author, position: at.1, stamp, deleted });
                if result.is_err() {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        result
    }
}

/// Entry of the view, while it is read.
struct ViewEntry<'a> {
    key: &'a str,
    author: PeerId,
    position: u64,
    stamp: Stamp,
    deleted: bool,
}

type Visit<'a, T> = &'a mut dyn FnMut(&ViewEntry<'_>) -> Result<(), <T as Lookup>::Error>;

fn keyed(nonce: &[u8; 16]) -> blake3::Hasher {
    let mut key = *b"orch crdt fingerprint...........";
    key[16..].copy_from_slice(nonce);
    blake3::Hasher::new_keyed(&key)
}

impl Fingerprint {
    fn add(&mut self, hasher: &blake3::Hasher, entry: &ViewEntry<'_>) {
        let mut hasher = hasher.clone();
        hasher.update(entry.author.as_bytes()).update(&entry.position.to_le_bytes());
        hasher.update(&entry.stamp.0.to_le_bytes()).update(entry.key.as_bytes());
        let hash: [u8; 32] = hasher.finalize().into();
        let mut carry = 0u64;
        for (sum, word) in self.sum.iter_mut().zip(hash.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
            let total = u128::from(*sum) + u128::from(word) + u128::from(carry);
            #[expect(clippy::cast_possible_truncation, reason = "the two halves of the sum")]
            {
                *sum = total as u64;
                carry = (total >> 64) as u64;
            }
        }
        self.count += 1;
    }
}
