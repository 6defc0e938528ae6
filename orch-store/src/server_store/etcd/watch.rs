//! A watch that goes on over lost connections and members.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use orch_base::backoff::Backoff;
use orch_core::store::{Incarnation, Key, StoreError, Watch, WatchBatch, Write};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::{
    super::retry::backoff,
    error,
    members::{Members, Opened},
    wire,
};

/// The longest delay before a stream is opened again.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Range of keys of a watch.
pub(super) struct Range {
    /// Bytes of the prefix that all keys of the store have and its users do not see.
    pub(super) hidden: usize,
    pub(super) key: Bytes,
    pub(super) end: Bytes,
    /// The first revision to deliver.
    pub(super) start: i64,
    /// That of the history that is watched.
    pub(super) incarnation: Incarnation,
}

/// Names of the two watches of a stream: that of the range, and that of the store's own keys `head` and
/// `incarnation`, by which it is known when the stream breaks how far the history went.
const RANGE: i64 = 1;
const HISTORY: i64 = 2;

/// The changes in `range`, until the other end of `open` says false or is dropped.
pub(super) fn watch(members: Arc<Members>, range: Range, open: watch::Receiver<bool>) -> Watch {
    let watching = Watching {
        members,
        range,
        open,
        inbound: None,
        denied: false,
        ready: VecDeque::new(),
        failed: false,
        backoff: backoff(LONGEST_DELAY),
    };
    let items = stream::unfold(Some(watching), |watching| async {
        let mut watching = watching?;
        let mut open = watching.open.clone();
        let next = tokio::select! {
            biased;
            _ = open.wait_for(|open| !open) => return None,
            next = watching.next() => next,
        };
        let goes_on = next.is_ok();
        Some((next, goes_on.then_some(watching)))
    });
    items.boxed()
}

struct Watching {
    members: Arc<Members>,
    range: Range,
    open: watch::Receiver<bool>,
    /// The stream, and whose turn it was when it was opened.
    inbound: Option<(usize, Opened)>,
    /// A member did not let us watch; with an old token it says the same as without the right to.
    denied: bool,
    /// One response may have several revisions.
    ready: VecDeque<WatchBatch>,
    /// The stream failed, and nothing came since.
    failed: bool,
    backoff: Backoff,
}

impl Watching {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(batch);
            }
            if self.has_diverged() {
                return Err(self.diverged().await);
            }
            match self.receive().await {
                Ok(response) if response.watch_id == HISTORY => self.take_history(response),
                Ok(response) => self.take(response)?,
                Err(status) if self.is_denied(&status) => return Err(error::refused("watching", status)),
                Err(status) => {
                    tracing::debug!(%status, "a watch begins again where it was");
                    self.inbound = None;
                    // The first attempt is at once, at the next member.
                    if std::mem::replace(&mut self.failed, true) {
                        tokio::time::sleep(self.backoff.next_delay()).await;
                    }
                }
            }
        }
    }

    /// The two watches of a stream.
    fn requests(&self) -> [wire::WatchRequest; 2] {
        let history = &self.members.history;
        let end = [&history.incarnation[..], b"\0"].concat();
        let create = |watch_id, key: &Bytes, range_end: Bytes, start_revision| wire::WatchRequest {
            create: Some(wire::WatchCreateRequest {
                key: key.clone(),
                range_end,
                start_revision,
                progress_notify: watch_id == RANGE,
                watch_id,
            }),
        };
        [
            // From the newest head that is known on: before it are the incarnations of long ago.
            create(HISTORY, &history.head, end.into(), history.next_revision()),
            create(RANGE, &self.range.key, self.range.end.clone(), self.range.start),
        ]
    }

    async fn receive(&mut self) -> Result<wire::WatchResponse, Status> {
        let (turn, opened) = match &mut self.inbound {
            Some((turn, opened)) => (*turn, opened),
            None => {
                // The stream of requests must not end before the watch does.
                let requests = stream::iter(self.requests()).chain(stream::pending());
                let (turn, opened) = self.members.stream(requests).await;
                let opened = opened.inspect_err(|_| self.members.pass_on(turn))?;
                (turn, &mut self.inbound.insert((turn, opened)).1)
            }
        };
        let received = opened.inbound.message().await;
        if received.is_err() {
            self.members.lose(turn, &opened.connection);
            self.members.pass_on(turn);
        }
        let response = received?.ok_or_else(|| Status::unavailable("the member ended the stream"))?;
        match response.canceled && response.compact_revision == 0 {
            true if ["permission denied", "auth"].iter().any(|why| response.cancel_reason.contains(why)) => {
                self.members.log_out(opened.token.as_ref());
                Err(Status::permission_denied(response.cancel_reason))
            }
            true => Err(Status::aborted(response.cancel_reason)),
            false => Ok(response),
        }
    }

    /// True if another try would end in the same way.
    fn is_denied(&mut self, status: &Status) -> bool {
        match status.code() {
            // Once more, with a new token.
            Code::PermissionDenied => std::mem::replace(&mut self.denied, true),
            _ => error::is_wrong_login(status),
        }
    }

    /// Remembers how far the history went, or that it went back.
    fn take_history(&mut self, response: wire::WatchResponse) {
        let history = &self.members.history;
        if response.compact_revision > 0 {
            // The known head is older than what is kept: the stream begins again, with what comes from now
            // on.
            history.forget_head();
            self.inbound = None;
            return;
        }
        for kv in response.events.into_iter().filter_map(|event| event.kv) {
            if kv.key == history.head {
                history.observe(self.range.incarnation, kv.mod_revision, kv.value);
            } else if let Some(incarnation) = super::history::read(&kv.value) {
                history.reach(incarnation);
            }
        }
    }

    /// True if the store has another history than the one that is watched.
    fn has_diverged(&self) -> bool {
        self.range.incarnation != self.members.history.current()
    }

    async fn diverged(&self) -> StoreError {
        let history = &self.members.history;
        let head = super::one(history.head.clone());
        let found: Result<wire::RangeResponse, _> = self.members.ask("watching", wire::RANGE, head).await;
        let found = match found {
            Ok(found) => found.kvs.first().map_or(0, |kv| kv.mod_revision),
            Err(error) => return error,
        };
        let expected = super::position(self.range.start - 1, self.range.incarnation);
        StoreError::Diverged { expected, head: super::position(found, history.current()) }
    }

    fn take(&mut self, response: wire::WatchResponse) -> Result<(), StoreError> {
        if self.has_diverged() {
            // The next step ends the watch.
            return Ok(());
        }
        if response.compact_revision > 0 {
            let oldest = super::position(response.compact_revision, self.range.incarnation);
            return Err(StoreError::Compacted { oldest });
        }
        (self.failed, self.denied) = (false, false);
        self.backoff.reset();
        for event in response.events {
            let (kind, Some(kv)) = (event.kind, event.kv) else { continue };
            // A member that was restored may send what was delivered before.
            if kv.mod_revision < self.range.start {
                continue;
            }
            let position = super::position(kv.mod_revision, self.range.incarnation);
            let key = super::key_of(&kv.key, self.range.hidden)?;
            let write = Write { key, value: (kind != wire::Event::DELETE).then_some(kv.value) };
            match self.ready.back_mut() {
                Some(batch) if batch.position == position => batch.writes.push(write),
                _ => self.ready.push_back(WatchBatch { position, writes: vec![write] }),
            }
        }
        for batch in &mut self.ready {
            batch.writes.sort_by(|a, b| Key::cmp(&a.key, &b.key));
        }
        // Without events, the header says how far the member has looked: nothing up to there is missing.
        let observed = match (self.ready.back(), response.header, response.created) {
            (Some(batch), ..) => super::number(batch.position.revision),
            (None, Some(header), false) => header.revision,
            _ => return Ok(()),
        };
        self.range.start = self.range.start.max(observed + 1);
        Ok(())
    }
}

/// The text of a key that a member sent.
pub(super) fn key_of(bytes: &[u8], hidden: usize) -> Result<Key, StoreError> {
    let text = bytes.get(hidden..).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let key = text.and_then(|text| Key::new(text).ok());
    key.ok_or_else(|| {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        StoreError::Corrupt(format!(
            "the key {shown:?} in {} is not one of orch; delete it, or choose another namespace",
            error::NAME
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_key_is_named() {
        assert_eq!(key_of(b"ns/tasks/1", 3).unwrap().as_str(), "tasks/1");
        for foreign in [&b"ns/a//b"[..], b"ns/\xff", b"ns"] {
            let error = key_of(foreign, 3).unwrap_err().to_string();
            assert!(error.contains("ns") && error.contains("another namespace"), "{error}");
        }
    }
}
