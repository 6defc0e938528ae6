//! A database in a file of this process, written from async code: on a thread for work that blocks, which
//! hands the change to a listener once it is on the disk.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::sync::broadcast;

use super::keys;
use crate::{BYTES, Raw, WATCHED};

/// Blocking client.
pub(super) trait Client: Send + 'static {
    /// Writes records under these keys with one sync; a claim only if none of them is there.
    fn write(&mut self, keys: &[String], value: &[u8], claim: bool);
}

pub(super) struct InFile<C> {
    client: Arc<Mutex<C>>,
    changes: broadcast::Sender<(String, Vec<u8>)>,
}

impl<C: Client> InFile<C> {
    pub(super) fn new(client: C) -> Self {
        Self { client: Arc::new(Mutex::new(client)), changes: broadcast::Sender::new(64) }
    }

    async fn put(&self, keys: Vec<String>, claim: bool) {
        let (client, changes) = (Arc::clone(&self.client), self.changes.clone());
        let work = move || {
            let value = vec![7; BYTES];
            client.lock().expect("no write panicked").write(&keys, &value, claim);
            for key in keys {
                // There need not be a listener.
                let _ = changes.send((key, value.clone()));
            }
        };
        tokio::task::spawn_blocking(work).await.expect("it is written");
    }
}

impl<C: Client> Raw for InFile<C> {
    fn write(&mut self, together: u64, claim: bool) -> BoxFuture<'_, ()> {
        self.put(keys(together, claim), claim).boxed()
    }

    fn seen(&mut self, times: u64) -> BoxFuture<'_, Duration> {
        async move {
            let mut changes = self.changes.subscribe();
            let begin = Instant::now();
            for _ in 0..times {
                self.put(vec![WATCHED.into()], false).await;
                let (key, value) = changes.recv().await.expect("the change");
                assert_eq!((&*key, value.len()), (WATCHED, BYTES));
            }
            begin.elapsed()
        }
        .boxed()
    }
}
