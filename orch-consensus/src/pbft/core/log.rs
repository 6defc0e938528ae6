//! Sequence numbers that are being agreed on, between the watermarks.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    batch::Batch,
    ids::{Digest, ReplicaId, Seq, Signature, View},
    message::{Certificate, Vote},
};

/// Batches that are kept for one sequence number.
const BODIES_MAX: usize = 16;

/// The slots after the low watermark, in order and without gaps.
#[derive(Debug)]
pub(super) struct Log {
    low: Seq,
    slots: VecDeque<Slot>,
    replicas: usize,
}

/// State of one sequence number.
#[derive(Debug)]
pub(super) struct Slot {
    /// Proposal of the current view's primary.
    pub(super) proposal: Option<Proposal>,
    /// A proposal whose signatures are being checked.
    pub(super) checking: bool,
    /// Batches that may be decided here.
    bodies: Vec<Arc<Batch>>,
    /// Prepare votes of the current view.
    pub(super) prepares: Ballot,
    /// The latest commit vote of each replica.
    pub(super) commits: Ballot,
    /// Certificate that this replica prepared in the highest view.
    pub(super) prepared: Option<Certificate>,
    /// Digest of the decided batch.
    pub(super) decided: Option<Digest>,
    /// The votes that decided it. None where it came with the state from elsewhere.
    pub(super) proof: Option<Certificate>,
    /// Time at which a missing body is fetched (again).
    pub(super) fetch_at: Option<Duration>,
    /// Both sides of a conflict were shown around.
    pub(super) exposed: bool,
}

/// Batch that has this sequence number in the current view.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proposal {
    pub(super) digest: Digest,
    pub(super) since: Duration,
    /// Our prepare vote is on its way.
    pub(super) accepted: bool,
}

/// One vote per replica.
#[derive(Debug)]
pub(super) struct Ballot {
    cast: Vec<Option<Cast>>,
    struck: u64,
}

/// A vote that was received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cast {
    pub(super) vote: Vote,
    checked: Checked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checked {
    No,
    Running,
    Good,
}

/// Verdict about a new vote.
pub(super) enum Counted {
    /// It is counted.
    Yes,
    /// It says nothing new.
    No,
    /// The replica voted for something else before.
    Conflict(Vote),
}

impl Log {
    pub(super) fn new(low: Seq, window: u64, replicas: usize) -> Self {
        let mut log = Self { low, slots: VecDeque::new(), replicas };
        log.fill(window);
        log
    }

    /// The last stable checkpoint.
    pub(super) fn low(&self) -> Seq {
        self.low
    }

    /// The last sequence number that has a slot.
    pub(super) fn high(&self) -> Seq {
        self.low.plus(self.slots.len() as u64)
    }

    pub(super) fn get(&self, seq: Seq) -> Option<&Slot> {
        self.slots.get(self.at(seq)?)
    }

    pub(super) fn get_mut(&mut self, seq: Seq) -> Option<&mut Slot> {
        let at = self.at(seq)?;
        self.slots.get_mut(at)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Seq, &Slot)> {
        (self.low.0 + 1..).map(Seq).zip(&self.slots)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Seq, &mut Slot)> {
        (self.low.0 + 1..).map(Seq).zip(&mut self.slots)
    }

    /// Forgets everything up to a stable checkpoint.
    pub(super) fn truncate(&mut self, low: Seq, window: u64) {
        let gone = low.0.saturating_sub(self.low.0).min(self.slots.len() as u64);
        self.slots.drain(..usize::try_from(gone).unwrap_or(0));
        self.low = self.low.max(low);
        self.fill(window);
    }

    fn fill(&mut self, window: u64) {
        while (self.slots.len() as u64) < window {
            self.slots.push_back(Slot::new(self.replicas));
        }
    }

    fn at(&self, seq: Seq) -> Option<usize> {
        usize::try_from(seq.0.checked_sub(self.low.0 + 1)?).ok()
    }
}

impl Slot {
    fn new(replicas: usize) -> Self {
        Self {
            proposal: None,
            checking: false,
            bodies: Vec::new(),
            prepares: Ballot::new(replicas),
            commits: Ballot::new(replicas),
            prepared: None,
            decided: None,
            proof: None,
            fetch_at: None,
            exposed: false,
        }
    }

    pub(super) fn body(&self, digest: &Digest) -> Option<&Arc<Batch>> {
        self.bodies.iter().find(|batch| batch.digest() == *digest)
    }

    /// The batch whose body is missing here: first what is decided, then what the view began with.
    pub(super) fn missing(&self) -> Option<Digest> {
        let adopted = self.proposal.filter(|proposal| !proposal.accepted).map(|proposal| proposal.digest);
        [self.decided, adopted].into_iter().flatten().find(|digest| self.body(digest).is_none())
    }

    /// All bodies that may be decided here.
    pub(super) fn bodies(&self) -> impl Iterator<Item = &Arc<Batch>> {
        self.bodies.iter()
    }

    /// Keeps a body. What we voted for may be all that is left of a batch that only a Byzantine replica can
    /// show to be prepared, so bodies are kept until the checkpoint, as far as there is room: of so many
    /// views that others go first.
    pub(super) fn keep_body(&mut self, batch: Arc<Batch>) {
        if self.body(&batch.digest()).is_some() {
            return;
        }
        if self.bodies.len() >= BODIES_MAX {
            let used = [
                self.proposal.map(|proposal| proposal.digest),
                self.prepared.as_ref().map(|certificate| certificate.digest),
                self.decided,
            ];
            if let Some(oldest) = self.bodies.iter().position(|body| !used.contains(&Some(body.digest()))) {
                self.bodies.remove(oldest);
            }
        }
        self.bodies.push(batch);
    }
}

impl Ballot {
    fn new(replicas: usize) -> Self {
        Self { cast: vec![None; replicas], struck: 0 }
    }

    /// Forgets all votes.
    pub(super) fn clear(&mut self) {
        self.cast.fill(None);
        self.struck = 0;
    }

    /// Counts a vote of the replica at `index`; `good` when its signature is known to be right.
    pub(super) fn count(&mut self, index: usize, vote: Vote, good: bool) -> Counted {
        if self.struck & (1 << index) != 0 {
            return Counted::No;
        }
        let checked = if good { Checked::Good } else { Checked::No };
        match &mut self.cast[index] {
            Some(known) if known.vote.view > vote.view => Counted::No,
            Some(known) if known.vote.view == vote.view => {
                if known.vote.digest != vote.digest {
                    return Counted::Conflict(known.vote);
                }
                if good && known.checked != Checked::Good {
                    *known = Cast { vote, checked };
                    return Counted::Yes;
                }
                Counted::No
            }
            cast => {
                *cast = Some(Cast { vote, checked });
                Counted::Yes
            }
        }
    }

    /// The vote of the replica at `index`.
    pub(super) fn of(&self, index: usize) -> Option<&Vote> {
        self.cast.get(index)?.as_ref().map(|cast| &cast.vote)
    }

    /// Number of votes for this whose signatures are known to be right.
    pub(super) fn count_good(&self, view: View, digest: Digest) -> usize {
        self.matching(view, digest).filter(|(_, cast)| cast.checked == Checked::Good).count()
    }

    /// Number of votes for this, checked or not.
    pub(super) fn count_all(&self, view: View, digest: Digest) -> usize {
        self.matching(view, digest).count()
    }

    /// The votes for this whose signatures are not being checked yet; from now on they are.
    pub(super) fn begin_check(&mut self, view: View, digest: Digest) -> Vec<(usize, Vote)> {
        let unchecked: Vec<_> = self
            .matching(view, digest)
            .filter(|(_, cast)| cast.checked == Checked::No)
            .map(|(index, cast)| (index, cast.vote))
            .collect();
        for (index, _) in &unchecked {
            if let Some(cast) = &mut self.cast[*index] {
                cast.checked = Checked::Running;
            }
        }
        unchecked
    }

    /// The signature of this vote was checked.
    pub(super) fn end_check(&mut self, index: usize, vote: &Vote, good: bool) {
        let Some(cast) = self.cast.get_mut(index) else { return };
        if !cast.is_some_and(|cast| cast.vote == *vote && cast.checked == Checked::Running) {
            return;
        }
        if good {
            *cast = Some(Cast { vote: *vote, checked: Checked::Good });
        } else {
            // It came from the replica itself: its further votes for this sequence number are not worth
            // another check.
            *cast = None;
            self.struck |= 1 << index;
        }
    }

    /// The votes for this that are known to be right, in the order of the members.
    pub(super) fn good(&self, view: View, digest: Digest) -> Vec<(ReplicaId, Signature)> {
        self.matching(view, digest)
            .filter(|(_, cast)| cast.checked == Checked::Good)
            .map(|(_, cast)| (cast.vote.replica, cast.vote.signature))
            .collect()
    }

    fn matching(&self, view: View, digest: Digest) -> impl Iterator<Item = (usize, &Cast)> {
        self.cast.iter().enumerate().filter_map(move |(index, cast)| {
            let cast = cast.as_ref()?;
            (cast.vote.view == view && cast.vote.digest == digest).then_some((index, cast))
        })
    }
}
