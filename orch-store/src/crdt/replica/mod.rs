//! [`Replica`]: the logs, the view and the protocol as a function of its inputs.

mod author;
mod collect;
mod decide;
mod read;
mod receive;
mod repair;
mod sync;
mod view;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    time::Duration,
};

use bytes::Bytes;
use orch_base::codec::{Input, Malformed};
use orch_core::{model::Timestamp, store::Revision, transport::PeerId};

pub(super) use self::read::confirmed;
use self::{
    author::Author,
    collect::Garbage,
    receive::Claim,
    repair::Repair,
    sync::{Gap, Peer},
};
pub use self::{
    decide::{Decision, DecisionError},
    read::ReadLevel,
    write::{Prepared, Refusal, TxnOutcome},
};
use super::{
    applied::Applied,
    clock::{Clock, Stamp},
    key::AuthorKey,
    merkle::Hash,
    message::{Evidence, Message},
    segment::{Head, SegmentKey},
    tables::Tables,
};

/// The newest format of a replica's tables, and the one that is written.
const FORMAT: u8 = 1;
const META: &str = "replica";

/// Settings that all replicas of a group have in common, and those of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// Names the group: a hash of something that no other group has. It is part of everything that is signed.
    pub group: Hash,
    /// First members, which may write. Later changes are decisions.
    pub members: Vec<PeerId>,
    /// Number of authors that have to write the same for a read to be [`ReadLevel::Confirmed`]: one more than
    /// may lie. The same in all replicas, from the beginning. With one, nobody lies.
    pub confirmations: NonZeroUsize,
    /// Longest time that the stamp of a segment may lie ahead of our clock. One beyond waits at its sender.
    pub skew_max: Duration,
    /// A member without a digest for so long no longer keeps the others from forgetting overwritten values.
    /// Deletes are remembered until it is back, or until a decision lets it leave.
    pub offline_after: Duration,
    /// Number of other members that have to confirm this one's log after a start before it writes. They show
    /// whether its disk is an old copy, so that it never signs two segments for one position. At most as many
    /// as there are.
    pub startup_quorum: usize,
    /// Grace before a missing segment is requested, because it is probably on its way already.
    pub request_grace: Duration,
    /// Time limit of a request, before it goes to somebody else.
    pub answer_timeout: Duration,
    /// The bytes of segments in one message, unless a single one is larger.
    pub message_bytes: usize,
}

impl ReplicaConfig {
    /// A group in which nobody lies, with these first members.
    #[must_use]
    pub fn new(group: Hash, members: Vec<PeerId>) -> Self {
        Self {
            group,
            members,
            confirmations: NonZeroUsize::MIN,
            skew_max: Duration::from_secs(60),
            offline_after: Duration::from_secs(600),
            startup_quorum: 1,
            request_grace: Duration::from_millis(500),
            answer_timeout: Duration::from_secs(5),
            message_bytes: 1 << 20,
        }
    }
}

/// Something to do once the changes of the step are durable, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Readers see this from now on.
    Applied(Applied),
    /// Send a message. It may be lost.
    Send(PeerId, Message),
    /// Something that operators want to know.
    Event(Event),
}

/// Something that operators want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// An author signed two segments for one position. What it writes is refused until a decision.
    Evidence(Box<Evidence>),
    /// A segment was refused, and with it everything after it in its author's log.
    Refused {
        /// Sender.
        from: PeerId,
        /// Claimed author.
        author: PeerId,
        /// Why.
        why: &'static str,
    },
    /// A segment lies in the future and waits at its sender.
    Ahead {
        /// Author that wrote it.
        author: PeerId,
        /// Its time.
        time: Timestamp,
    },
    /// Something is missing here that others may have collected: the view is compared with theirs.
    RepairStarted,
    /// The view has been compared and is complete.
    RepairFinished,
    /// A decision took back what an author had written here.
    RolledBack {
        /// Author of the writes.
        author: PeerId,
        /// New head of its log.
        to: Head,
    },
}

/// One replica without any input or output of its own. The host gives it the tables, the time, and what
/// happened; it commits the tables after each step, and only then carries out the [`Effect`]s. When a commit
/// fails, it drops the replica and opens it again from the tables.
#[derive(Debug)]
pub struct Replica {
    config: ReplicaConfig,
    key: AuthorKey,
    /// Our number among `authors`.
    me: Option<u16>,
    authors: Vec<Author>,
    by_id: BTreeMap<PeerId, u16>,
    clock: Clock,
    revision: Revision,
    /// The last decision that was applied.
    decided: u64,
    /// The latest stamp of a delete that was forgotten. Every member had observed it, so that none writes
    /// with an earlier one.
    forgotten: Stamp,
    /// Set while something may be missing here.
    repair: Option<Repair>,

    peers: BTreeMap<PeerId, Peer>,
    /// Gaps, by author and by the peer that has the segments.
    gaps: BTreeMap<(u16, PeerId), Gap>,
    /// Open requests for an author's segments: the peer, and the time of the request.
    asking: BTreeMap<u16, (PeerId, Duration)>,
    /// Claims of members about what is left of logs, where some may lie.
    claims: BTreeMap<(u16, PeerId), Claim>,
    /// Members that confirmed that they know no longer log of ours.
    confirmed_us: BTreeSet<PeerId>,
    /// Times of the first and of the latest step. No digest came before the first.
    step_times: Option<(Duration, Duration)>,
    /// Garbage that the current step leaves, by segment.
    garbage: BTreeMap<SegmentKey, Garbage>,
    /// Segment at which collecting goes on.
    collected_to: SegmentKey,
    /// Something in `authors` or in [`META`] changed in this step.
    changed: BTreeSet<u16>,
    meta_changed: bool,
}

/// Why a replica cannot be opened from these tables.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It has another one's records.
    #[error(
        "the store belongs to group {found}, not to {expected}; choose another directory, or the right group"
    )]
    OtherGroup {
        /// Group of the store.
        found: Hash,
        /// Configured group.
        expected: Hash,
    },
    /// A later version wrote it.
    #[error(
        "the store was written by a newer version (format {found}, this version reads up to {known}); use that version"
    )]
    Newer {
        /// Its format.
        found: u8,
        /// The newest that is known here.
        known: u8,
    },
    /// The number of confirmations decides what is kept.
    #[error("the store was made for {found} confirmations, not {expected}; they cannot be changed later")]
    OtherConfirmations {
        /// Number that it was made for.
        found: u64,
        /// Configured number.
        expected: u64,
    },
    /// More authors than the format can hold.
    #[error("a group has at most {max} authors", max = super::message::AUTHORS_MAX)]
    TooManyAuthors,
}

impl Replica {
    /// Opens the replica that these tables hold; empty tables become a new one.
    ///
    /// # Errors
    /// Outside when the tables cannot be read or written, inside when they are not those of this replica.
    pub fn open<T: Tables>(
        tables: &mut T,
        config: ReplicaConfig,
        key: AuthorKey,
    ) -> Result<Result<Self, OpenError>, T::Error> {
        let mut replica = Self {
            config,
            key,
            me: None,
            authors: Vec::new(),
            by_id: BTreeMap::new(),
            clock: Clock::default(),
            revision: Revision::ZERO,
            decided: 0,
            forgotten: Stamp::default(),
            repair: None,
            peers: BTreeMap::new(),
            gaps: BTreeMap::new(),
            confirmed_us: BTreeSet::new(),
            asking: BTreeMap::new(),
            claims: BTreeMap::new(),
            step_times: None,
            garbage: BTreeMap::new(),
            collected_to: (0, 0),
            changed: BTreeSet::new(),
            meta_changed: false,
        };
        match tables.meta(META)? {
            Some(meta) => {
                if let Err(error) = replica.read_meta(meta).map_err(|_| T::corrupt("the replica's record"))? {
                    return Ok(Err(error));
                }
                while let Some(row) = tables.meta(&Author::name(replica.authors.len()))? {
                    let author = Author::decode(row).map_err(|_| T::corrupt("an author's record"))?;
                    replica.clock.saw(author.stamp);
                    replica.add_author(author);
                }
            }
            None => {
                replica.meta_changed = true;
                for member in replica.config.members.clone() {
                    if replica.authors.len() == super::message::AUTHORS_MAX {
                        return Ok(Err(OpenError::TooManyAuthors));
                    }
                    let index = replica.author(member);
                    replica.authors[usize::from(index)].member = true;
                }
            }
        }
        replica.me = replica.by_id.get(&replica.key.author()).copied();
        replica.finish(tables)?;
        Ok(Ok(replica))
    }

    /// Our name.
    #[must_use]
    pub fn author_id(&self) -> PeerId {
        self.key.author()
    }

    /// The revision of the last change here.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Everybody who may write now, in order.
    pub fn members(&self) -> impl Iterator<Item = PeerId> {
        self.by_id.iter().filter(|(_, at)| self.authors[usize::from(**at)].member).map(|(id, _)| *id)
    }

    /// Current status.
    #[must_use]
    pub fn status(&self) -> Status {
        let authors = self.by_id.iter().map(|(id, index)| {
            let author = &self.authors[usize::from(*index)];
            AuthorStatus {
                id: *id,
                member: author.member,
                head: author.head,
                acknowledged: self.acknowledged_by_all(*index),
                evidence: author.evidence.is_some(),
                successor: author.successor,
            }
        });
        Status {
            revision: self.revision,
            decided: self.decided,
            complete: self.repair.is_none(),
            writes: self.may_write(),
            authors: authors.collect(),
        }
    }

    /// Evidence against authors, in order of their names.
    #[must_use]
    pub fn evidence(&self) -> Vec<Evidence> {
        self.by_id.values().filter_map(|at| self.authors[usize::from(*at)].evidence).collect()
    }

    fn others(&self) -> impl Iterator<Item = PeerId> {
        let us = self.key.author();
        self.members().filter(move |member| *member != us)
    }

    fn author(&mut self, id: PeerId) -> u16 {
        match self.by_id.get(&id) {
            Some(index) => *index,
            None => self.add_author(Author::new(id)),
        }
    }

    fn add_author(&mut self, author: Author) -> u16 {
        let index = u16::try_from(self.authors.len()).expect("authors are bounded");
        self.by_id.insert(author.id, index);
        self.authors.push(author);
        self.changed.insert(index);
        index
    }

    /// Writes down what the step changed in memory.
    fn finish<T: Tables>(&mut self, tables: &mut T) -> Result<(), T::Error> {
        for (at, more) in std::mem::take(&mut self.garbage) {
            self.note(tables, at, more)?;
        }
        for index in std::mem::take(&mut self.changed) {
            let author = self.authors[usize::from(index)].encode();
            tables.put_meta(&Author::name(usize::from(index)), Some(&author))?;
        }
        if std::mem::take(&mut self.meta_changed) {
            tables.put_meta(META, Some(&self.encode_meta()))?;
        }
        Ok(())
    }

    fn next_revision(&mut self) -> Revision {
        self.meta_changed = true;
        self.revision = self.revision.next();
        self.revision
    }

    fn encode_meta(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend(self.config.group.0);
        out.extend((self.config.confirmations.get() as u64).to_le_bytes());
        out.extend(self.revision.0.to_le_bytes());
        out.extend(self.decided.to_le_bytes());
        out.extend(self.forgotten.0.to_le_bytes());
        out.push(u8::from(self.repair.is_some()));
        out
    }

    fn read_meta(&mut self, bytes: Bytes) -> Result<Result<(), OpenError>, Malformed> {
        let mut input = Input(bytes);
        match input.u8()? {
            FORMAT => {}
            found => return Ok(Err(OpenError::Newer { found, known: FORMAT })),
        }
        let (found, expected) = (Hash(input.array()?), self.config.group);
        if found != expected {
            return Ok(Err(OpenError::OtherGroup { found, expected }));
        }
        let (found, expected) = (input.u64()?, self.config.confirmations.get() as u64);
        if found != expected {
            return Ok(Err(OpenError::OtherConfirmations { found, expected }));
        }
        self.revision = Revision(input.u64()?);
        self.decided = input.u64()?;
        self.forgotten = Stamp(input.u64()?);
        self.repair = input.flag()?.then(Repair::default);
        input.end()?;
        Ok(Ok(()))
    }
}

/// Status of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The last change here.
    pub revision: Revision,
    /// The number of the last decision that was applied.
    pub decided: u64,
    /// Nothing is known to be missing here.
    pub complete: bool,
    /// Why this replica does not write at the moment, if it does not.
    pub writes: Result<(), Refusal>,
    /// In order of their names.
    pub authors: Vec<AuthorStatus>,
}

/// Status of an author's log in this replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorStatus {
    /// Its name.
    pub id: PeerId,
    /// It may write.
    pub member: bool,
    /// Head of its log in this replica.
    pub head: Head,
    /// Up to here every member that is not offline has its log. A decision about it should not go back behind
    /// that: what was overwritten before may be collected.
    pub acknowledged: u64,
    /// It signed two segments for one position, and no decision has settled that.
    pub evidence: bool,
    /// The key that replaced it.
    pub successor: Option<PeerId>,
}
