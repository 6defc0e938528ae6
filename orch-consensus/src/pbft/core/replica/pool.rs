//! Requests that wait to be executed. How long the oldest has waited is what the primary is suspected by.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::pbft::core::{batch::Request, clients::CLIENT_WINDOW, ids::PublicKey};

/// Requests that are relayed in one go.
const RELAYED_MAX: usize = 32;

/// A request's name.
pub(super) type Key = (PublicKey, u64, u64);

/// The name of a request.
pub(super) fn key_of(request: &Request) -> Key {
    (request.client, request.session, request.number)
}

/// Requests of all clients that are known and not executed.
#[derive(Debug, Default)]
pub(super) struct Pool {
    waiting: BTreeMap<Key, Waiting>,
    /// In order of arrival. Entries that no longer wait are skipped.
    arrivals: VecDeque<Key>,
    /// Requests that the primary has not proposed yet. Entries that no longer wait are skipped.
    proposable: VecDeque<Key>,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) request: Arc<Request>,
    pub(super) since: Duration,
    /// Time of the last relay.
    relayed_at: Duration,
}

impl Pool {
    /// Adds a request, unless it is known or its client has too many.
    pub(super) fn add(&mut self, request: Arc<Request>, now: Duration) -> bool {
        let key = key_of(&request);
        if self.waiting.contains_key(&key) || self.of_client(&request.client) >= CLIENT_WINDOW {
            return false;
        }
        self.waiting.insert(key, Waiting { request, since: now, relayed_at: now });
        self.arrivals.push_back(key);
        self.proposable.push_back(key);
        true
    }

    pub(super) fn remove(&mut self, request: &Request) {
        self.waiting.remove(&key_of(request));
        while self.arrivals.front().is_some_and(|key| !self.waiting.contains_key(key)) {
            self.arrivals.pop_front();
        }
        while self.proposable.front().is_some_and(|key| !self.waiting.contains_key(key)) {
            self.proposable.pop_front();
        }
    }

    /// The request that has waited longest.
    pub(super) fn oldest(&self) -> Option<&Waiting> {
        self.arrivals.iter().find_map(|key| self.waiting.get(key))
    }

    /// Time of the oldest relay.
    pub(super) fn first_relayed(&self) -> Option<Duration> {
        self.arrivals.iter().filter_map(|key| self.waiting.get(key)).map(|waiting| waiting.relayed_at).min()
    }

    /// Requests that were last relayed at `before` or earlier, the oldest first. They count as relayed now.
    pub(super) fn take_unrelayed(&mut self, before: Duration, now: Duration) -> Vec<Arc<Request>> {
        let mut due = Vec::new();
        for key in &self.arrivals {
            if due.len() >= RELAYED_MAX {
                break;
            }
            if let Some(waiting) = self.waiting.get_mut(key)
                && waiting.relayed_at <= before
            {
                waiting.relayed_at = now;
                due.push(waiting.request.clone());
            }
        }
        due
    }

    /// The next request for a batch with room for `bytes` more.
    pub(super) fn next(&mut self, bytes: usize) -> Option<Arc<Request>> {
        loop {
            let key = self.proposable.front()?;
            let Some(waiting) = self.waiting.get(key) else {
                self.proposable.pop_front();
                continue;
            };
            if waiting.request.size() > bytes {
                return None;
            }
            let request = waiting.request.clone();
            self.proposable.pop_front();
            return Some(request);
        }
    }

    /// Time since which the first proposable request waits.
    pub(super) fn proposable_since(&self) -> Option<Duration> {
        self.proposable.iter().find_map(|key| self.waiting.get(key)).map(|waiting| waiting.since)
    }

    /// A view begins: every request that waits may be proposed in it, and its time begins anew.
    pub(super) fn begin_view(&mut self, now: Duration) {
        let waiting = &mut self.waiting;
        self.arrivals.retain(|key| waiting.contains_key(key));
        self.proposable.clone_from(&self.arrivals);
        for each in waiting.values_mut() {
            each.since = now;
            each.relayed_at = now;
        }
    }

    /// Forgets requests of a client for which `obsolete` holds.
    pub(super) fn forget_of(&mut self, client: &PublicKey, obsolete: impl Fn(&Request) -> bool) {
        let of_client = self.waiting.range((*client, 0, 0)..=(*client, u64::MAX, u64::MAX));
        let superseded: Vec<_> =
            of_client.filter(|(_, waiting)| obsolete(&waiting.request)).map(|(key, _)| *key).collect();
        for key in superseded {
            self.waiting.remove(&key);
        }
    }

    /// Forgets requests for which `obsolete` holds.
    pub(super) fn forget(&mut self, obsolete: impl Fn(&Request) -> bool) {
        self.waiting.retain(|_, waiting| !obsolete(&waiting.request));
    }

    fn of_client(&self, client: &PublicKey) -> u64 {
        self.waiting.range((*client, 0, 0)..=(*client, u64::MAX, u64::MAX)).count() as u64
    }
}
