//! Batches are executed in order, each when all before it are (TOCS 4.2).

use std::sync::Arc;

use super::Replica;
use crate::pbft::core::{
    batch::Batch,
    clients::Standing,
    history::Snapshot,
    ids::Seq,
    io::{Effect, Moment},
    service::Executed,
};

impl Replica {
    /// Executes whatever is decided and has everything before it executed.
    pub(super) fn execute_decided(&mut self, now: Moment, out: &mut Vec<Effect>) {
        loop {
            let seq = self.executed().next();
            let Some(slot) = self.log.get(seq) else { return };
            let Some(batch) = slot.decided.and_then(|digest| slot.body(&digest)).cloned() else { return };
            self.execute(now, seq, &batch, out);
        }
    }

    /// Executes the batch after the last executed one.
    pub(super) fn execute(&mut self, now: Moment, seq: Seq, batch: &Arc<Batch>, out: &mut Vec<Effect>) {
        for (request, result) in self.service.execute(batch, &self.config) {
            self.pool.remove(&request);
            let reply = match result {
                Executed::Now(reply) | Executed::Before(Some(reply)) => reply,
                Executed::Before(None) | Executed::Refused => continue,
            };
            if request.client == self.key {
                self.answer_local(&reply, out);
            } else if self.membership().by_key(&request.client).is_none() {
                self.reply(request.client, reply, out);
            }
        }
        self.forget_superseded(batch);
        self.renew_session(out);
        self.progress_at = now.elapsed;
        self.history.push(batch.clone());
        self.prepared_max = self.prepared_max.max(seq);
        if let Some(slot) = self.log.get_mut(seq) {
            slot.decided = Some(batch.digest());
            slot.fetch_at = None;
        }
        if self.changing.is_none() {
            self.failures = 0;
        }
        if seq.0.is_multiple_of(self.config.checkpoint_interval) {
            if self.history.snapshot_is_due(self.config.snapshot_bytes_min) {
                let bytes = self.service.snapshot();
                self.history.add_snapshot(Snapshot::new(seq, bytes));
            }
            self.make_checkpoint(now, out);
        }
        self.run_reads(now, out);
    }

    /// A client's request may have superseded others of its requests: those that it has the answers to, and
    /// those of an earlier incarnation. The primary is not to blame that they are not executed.
    fn forget_superseded(&mut self, batch: &Batch) {
        let service = &self.service;
        let mut last = None;
        for request in &batch.requests {
            if last != Some(request.client) {
                self.pool.forget_of(&request.client, |request| service.standing(request) != Standing::New);
                last = Some(request.client);
            }
        }
    }
}
