//! Catching up with a stable checkpoint (TOCS 5.3). Everything is verified from the checkpoint's certificate:
//! the snapshot by the hashes of its chunks, the batches after it by the hash chain. So any one honest
//! replica is enough to get it from, and a Byzantine replica costs one request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::Replica;
use crate::pbft::core::{
    batch::Batch,
    guard::Guard,
    history::{Snapshot, chunk_digest, root},
    ids::{Digest, PublicKey, Seq},
    io::{Effect, Event, Moment, To},
    message::{EpochStep, Fetch, Message, SnapshotRef, StableProof, Supply},
    record::Record,
    service::link,
};

/// Changes of members in one message to a client.
const STEPS_MAX: usize = 16;
/// Requests that are open at a time.
const QUESTIONS_MAX: usize = 16;

/// On the way to a stable checkpoint.
#[derive(Debug)]
pub(super) struct Transfer {
    target: Arc<StableProof>,
    stage: Stage,
    /// Time at which another peer is asked.
    retry_at: Duration,
    /// Counts whom we ask.
    turn: usize,
}

#[derive(Debug)]
enum Stage {
    /// The missing batches may still come by themselves.
    Waiting,
    /// The hashes of the snapshot's chunks.
    Manifest(SnapshotRef),
    /// The chunks.
    Chunks { name: SnapshotRef, hashes: Vec<Digest>, chunks: BTreeMap<u32, Bytes> },
    /// The digests of the batches, all from one replica.
    Digests { after: Seq, digests: Vec<Digest> },
    /// The batches after what is executed.
    Batches { digests: BTreeMap<Seq, Digest>, batches: BTreeMap<Seq, Arc<Batch>> },
}

impl Transfer {
    pub(super) fn deadline(&self) -> Duration {
        self.retry_at
    }
}

impl Replica {
    /// A checkpoint is stable that we do not have the state of.
    pub(super) fn catch_up(&mut self, now: Moment, target: &Arc<StableProof>, out: &mut Vec<Effect>) {
        let seq = target.checkpoint.seq;
        if seq <= self.executed() {
            return;
        }
        // Steps to epochs that we know were not checked, and are not needed.
        let epoch = self.epoch();
        let steps = target.steps.iter().filter(|step| step.membership.epoch() > epoch).cloned().collect();
        let target = Arc::new(StableProof { steps, ..(**target).clone() });
        if self.transfer.as_ref().is_some_and(|transfer| transfer.target.checkpoint.seq >= seq) {
            return;
        }
        let restart = self.transfer.as_ref().is_none_or(|known| {
            let same_snapshot = known.target.checkpoint.snapshot == target.checkpoint.snapshot;
            !(same_snapshot && matches!(known.stage, Stage::Manifest(_) | Stage::Chunks { .. }))
        });
        if restart {
            let grace =
                if self.transfer.is_some() { Duration::ZERO } else { self.config.status_interval * 2 };
            self.transfer =
                Some(Transfer { target, stage: Stage::Waiting, retry_at: now.elapsed + grace, turn: 0 });
        } else if let Some(transfer) = &mut self.transfer {
            transfer.target = target;
        }
        self.run_transfer(now, out);
    }

    pub(super) fn run_transfer(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let executed = self.executed();
        let Some(transfer) = &mut self.transfer else { return };
        if executed >= transfer.target.checkpoint.seq {
            let target = transfer.target.clone();
            self.transfer = None;
            self.arrive(now, &target, out);
            return;
        }
        if now.elapsed < transfer.retry_at {
            return;
        }
        transfer.turn += 1;
        transfer.retry_at = now.elapsed + self.config.status_interval * 2;
        match &mut transfer.stage {
            Stage::Waiting => {
                transfer.stage = Stage::Digests { after: executed, digests: Vec::new() };
                Self::event(out, Event::Fetching(transfer.target.checkpoint.seq));
            }
            // Digests of one replica cannot be told apart from false ones so far.
            Stage::Digests { after, digests } => {
                *after = executed;
                digests.clear();
            }
            _ => {}
        }
        self.ask(out);
    }

    /// Fetches the next pieces.
    fn ask(&self, out: &mut Vec<Effect>) {
        let Some(transfer) = &self.transfer else { return };
        let questions: Vec<Fetch> = match &transfer.stage {
            Stage::Waiting => Vec::new(),
            Stage::Manifest(name) => vec![Fetch::Manifest(*name)],
            Stage::Chunks { name, hashes, chunks } => (0u32..)
                .take(hashes.len())
                .filter(|index| !chunks.contains_key(index))
                .take(QUESTIONS_MAX)
                .map(|index| Fetch::Chunk(*name, index))
                .collect(),
            Stage::Digests { after, digests } => {
                let after = after.plus(digests.len() as u64);
                vec![Fetch::Digests(after, transfer.target.checkpoint.seq)]
            }
            Stage::Batches { digests, batches } => digests
                .iter()
                .filter(|(seq, _)| !batches.contains_key(seq))
                .take(QUESTIONS_MAX)
                .map(|(seq, digest)| Fetch::Batch(*seq, *digest))
                .collect(),
        };
        if let Some(peer) = self.peer(transfer.turn) {
            out.extend(questions.into_iter().map(|fetch| Effect::Send(To::One(peer), Message::Fetch(fetch))));
        }
    }

    /// Peer to fetch from, each time another.
    fn peer(&self, turn: usize) -> Option<PublicKey> {
        // The members of the target's epoch have it; those of an epoch that we know may have left.
        let target = self.transfer.as_ref()?.target.as_ref();
        let members = target.steps.last().map_or(self.membership(), |step| &step.membership);
        let others: Vec<_> =
            members.members().iter().map(|member| member.key).filter(|key| *key != self.key).collect();
        others.get(turn % others.len().max(1)).copied()
    }

    pub(super) fn supply(&self, fetch: Fetch) -> Supply {
        if let Fetch::Batch(seq, digest) = fetch
            && let Some(batch) = self.log.get(seq).and_then(|slot| slot.body(&digest))
        {
            return Supply::Batch(seq, batch.clone());
        }
        if let Fetch::Members(epoch) = fetch {
            let next = self.steps.iter().filter(|step| step.membership.epoch() > epoch);
            return Supply::Members(next.take(STEPS_MAX).cloned().collect());
        }
        self.history.supply(fetch)
    }

    pub(super) fn on_supply(&mut self, now: Moment, from: PublicKey, supply: Supply, out: &mut Vec<Effect>) {
        match supply {
            Supply::Batch(seq, batch) => {
                self.supply_slot(now, seq, &batch, out);
                self.supply_batch(now, seq, batch, out);
            }
            Supply::Manifest(name, hashes) => self.supply_manifest(name, hashes, out),
            Supply::Chunk(name, index, bytes) => self.supply_chunk(now, name, index, bytes, out),
            Supply::Digests(after, digests) => self.supply_digests(now, from, after, &digests, out),
            Supply::Unavailable(fetch) => self.supply_unavailable(now, from, fetch, out),
            Supply::Members(_) => {}
        }
    }

    /// A body that a slot waits for.
    fn supply_slot(&mut self, now: Moment, seq: Seq, batch: &Arc<Batch>, out: &mut Vec<Effect>) {
        let current = self.changing.is_none();
        let Some(slot) = self.log.get_mut(seq) else { return };
        if slot.fetch_at.is_none() || slot.body(&batch.digest()).is_some() {
            return;
        }
        let decided = slot.decided == Some(batch.digest());
        let adopted =
            slot.proposal.is_some_and(|proposal| proposal.digest == batch.digest() && !proposal.accepted);
        if !decided && !adopted {
            return;
        }
        if decided {
            slot.keep_body(batch.clone());
            self.append(Record::Body(seq, batch.clone()), out);
            self.execute_decided(now, out);
        }
        if adopted && current {
            self.adopt_body(now, seq, batch, out);
        }
    }

    fn supply_unavailable(&mut self, now: Moment, from: PublicKey, fetch: Fetch, out: &mut Vec<Effect>) {
        let asked = self.transfer.as_ref().and_then(|transfer| self.peer(transfer.turn));
        let Some(transfer) = &mut self.transfer else { return };
        if asked != Some(from) {
            return;
        }
        let peers = self.service.membership().members().len();
        let snapshot = transfer.target.checkpoint.snapshot;
        match (fetch, &transfer.stage) {
            // Too far back for batches: the snapshot comes first. It is verified like everything else.
            (Fetch::Digests(..), Stage::Digests { .. }) if snapshot.seq > self.service.executed() => {
                transfer.stage = Stage::Manifest(snapshot);
                transfer.retry_at = now.elapsed;
            }
            (Fetch::Batch(..), Stage::Batches { .. }) | (Fetch::Digests(..), _)
                if transfer.turn < 4 * peers =>
            {
                transfer.retry_at = now.elapsed;
            }
            _ => return,
        }
        self.run_transfer(now, out);
    }

    fn supply_manifest(&mut self, name: SnapshotRef, hashes: Vec<Digest>, out: &mut Vec<Effect>) {
        let right = self.config.holds(Guard::StateDigest, root(&hashes) == name.root);
        let Some(transfer) = &mut self.transfer else { return };
        let asked = matches!(&transfer.stage, Stage::Manifest(asked) if *asked == name);
        if !asked || !right {
            return;
        }
        transfer.stage = Stage::Chunks { name, hashes, chunks: BTreeMap::new() };
        self.ask(out);
    }

    fn supply_chunk(
        &mut self,
        now: Moment,
        name: SnapshotRef,
        index: u32,
        bytes: Bytes,
        out: &mut Vec<Effect>,
    ) {
        let Some(transfer) = &mut self.transfer else { return };
        let Stage::Chunks { name: asked, hashes, chunks } = &mut transfer.stage else { return };
        let Some(hash) = hashes.get(index as usize) else { return };
        let right = self.config.holds(Guard::StateDigest, *hash == chunk_digest(&bytes));
        if *asked != name || !right || chunks.insert(index, bytes).is_some() {
            return;
        }
        if chunks.len() == hashes.len() {
            let whole: Vec<u8> = std::mem::take(chunks).into_values().flatten().collect();
            self.restore(now, name, whole.into(), out);
        } else if chunks.len().is_multiple_of(QUESTIONS_MAX / 2) {
            self.ask(out);
        }
    }

    /// The snapshot is here.
    fn restore(&mut self, now: Moment, name: SnapshotRef, bytes: Bytes, out: &mut Vec<Effect>) {
        let Some(transfer) = &mut self.transfer else { return };
        transfer.stage = Stage::Digests { after: name.seq, digests: Vec::new() };
        transfer.retry_at = now.elapsed;
        if name.seq <= self.service.executed() {
            return;
        }
        let epoch = self.service.membership().epoch();
        if self.service.restore(bytes.clone()).is_err() {
            // A quorum holds this to be its state: it is our machine that cannot read it.
            Self::event(out, Event::Diverged(name.seq));
            return;
        }
        let steps = transfer.target.steps.clone();
        self.learn_steps(&steps, out);
        self.prepared_max = self.prepared_max.max(name.seq);
        self.history.restart(Snapshot::new(name.seq, bytes));
        if self.membership().epoch() != epoch {
            self.enter_epoch(now, out);
        }
        let (snapshot, target) =
            (self.history.find(name).cloned(), self.transfer.as_ref().map(|t| t.target.clone()));
        if let Some(snapshot) = snapshot {
            self.rewrite_log(&snapshot, target.as_ref(), out);
        }
        self.forget_executed(out);
        self.run_transfer(now, out);
    }

    /// Requests that the state from elsewhere has executed wait no longer; ours are answered.
    fn forget_executed(&mut self, out: &mut Vec<Effect>) {
        use crate::pbft::core::clients::Standing;
        let mut done = Vec::new();
        for request in self.local.requests() {
            if let Standing::Done(Some(reply)) = self.service.standing(&request) {
                done.push(reply);
            }
        }
        for reply in done {
            self.answer_local(&reply, out);
        }
        let service = &self.service;
        self.pool.forget(|request| service.standing(request) != Standing::New);
        self.renew_session(out);
    }

    fn supply_digests(
        &mut self,
        now: Moment,
        from: PublicKey,
        after: Seq,
        more: &[Digest],
        out: &mut Vec<Effect>,
    ) {
        let (executed, chain) = (self.executed(), self.chain());
        let asked = self.transfer.as_ref().and_then(|transfer| self.peer(transfer.turn));
        let Some(transfer) = &mut self.transfer else { return };
        let Stage::Digests { after: base, digests } = &mut transfer.stage else { return };
        let target = transfer.target.checkpoint;
        let next = after == base.plus(digests.len() as u64) && *base == executed && after < target.seq;
        if asked != Some(from) || !next || more.is_empty() {
            return;
        }
        transfer.retry_at = now.elapsed + self.config.status_interval * 2;
        let missing = usize::try_from(target.seq.0 - after.0).unwrap_or(usize::MAX);
        digests.extend(more.iter().take(missing));
        if more.len() >= missing {
            let end = digests.iter().fold(chain, |chain, digest| link(chain, *digest));
            if end == target.chain {
                let digests = (executed.0 + 1..).map(Seq).zip(digests.iter().copied()).collect();
                transfer.stage = Stage::Batches { digests, batches: BTreeMap::new() };
            } else {
                digests.clear();
                transfer.retry_at = now.elapsed;
                self.run_transfer(now, out);
                return;
            }
        }
        self.ask(out);
    }

    fn supply_batch(&mut self, now: Moment, seq: Seq, batch: Arc<Batch>, out: &mut Vec<Effect>) {
        let Some(transfer) = &mut self.transfer else { return };
        let Stage::Batches { digests, batches } = &mut transfer.stage else { return };
        if digests.get(&seq) != Some(&batch.digest()) || batches.insert(seq, batch).is_some() {
            return;
        }
        self.execute_fetched(now, out);
    }

    /// Executes what has come and fits.
    fn execute_fetched(&mut self, now: Moment, out: &mut Vec<Effect>) {
        loop {
            self.pass_epoch(now, out);
            let next = self.executed().next();
            let Some(transfer) = &mut self.transfer else { return };
            let Stage::Batches { digests, batches } = &mut transfer.stage else { return };
            // Some may have been executed in the ordinary way meanwhile.
            *digests = digests.split_off(&next);
            *batches = batches.split_off(&next);
            let Some(batch) = batches.remove(&next) else { break };
            digests.remove(&next);
            self.append(Record::Body(next, batch.clone()), out);
            self.append(Record::Decided(next, batch.digest()), out);
            self.execute(now, next, &batch, out);
        }
        let open = |transfer: &Transfer| match &transfer.stage {
            Stage::Batches { digests, batches } => digests.len() - batches.len(),
            _ => 0,
        };
        if self
            .transfer
            .as_ref()
            .is_some_and(|transfer| open(transfer) > 0 && open(transfer).is_multiple_of(8))
        {
            self.ask(out);
        }
        self.run_transfer(now, out);
    }

    /// At the end of the epoch, a target beyond it proves that the old members agreed to go on from here.
    fn pass_epoch(&mut self, now: Moment, out: &mut Vec<Effect>) {
        let Some(target) = self.transfer.as_ref().map(|transfer| transfer.target.clone()) else { return };
        let executed = self.executed();
        let ends_here = self.service.successor().is_some_and(|(end, _)| *end == executed);
        if ends_here && target.checkpoint.seq > executed {
            self.learn_steps(&target.steps, out);
            self.service.succeed();
            self.enter_epoch(now, out);
        }
    }

    fn learn_steps(&mut self, steps: &[EpochStep], out: &mut Vec<Effect>) {
        let known: BTreeSet<_> = self.steps.iter().map(|step| step.membership.epoch()).collect();
        for step in steps.iter().filter(|step| !known.contains(&step.membership.epoch())) {
            self.append(Record::Epoch(Arc::new(step.clone())), out);
            self.steps.push(step.clone());
        }
        self.steps.sort_by_key(|step| step.membership.epoch());
    }

    /// The target is executed: it is our stable checkpoint too, unless our state is another.
    fn arrive(&mut self, now: Moment, target: &Arc<StableProof>, out: &mut Vec<Effect>) {
        let seq = target.checkpoint.seq;
        if self.ours_at(seq).is_some_and(|ours| ours != target.checkpoint) {
            Self::event(out, Event::Diverged(seq));
            return;
        }
        self.make_stable(now, target, out);
        Self::event(out, Event::Caught(self.executed()));
        self.execute_decided(now, out);
    }
}
