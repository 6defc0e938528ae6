//! Receiver of snapshots that come in chunks.

use openraft::Snapshot;
use tokio::sync::Mutex;
use tracing::warn;

use super::{
    snapshot,
    snapshot_store::{Receiving, SnapshotStore},
    types::{Raft, Vote},
    wire::{Part, Response},
};

/// Takes one snapshot at a time.
#[derive(Debug)]
pub(super) struct SnapshotReceiver {
    store: SnapshotStore,
    now: Mutex<Option<Transfer>>,
}

#[derive(Debug)]
struct Transfer {
    name: (u64, Vote, u64),
    received: u64,
    /// None when it is complete.
    receiving: Option<Receiving>,
    installed: Option<Vote>,
}

impl SnapshotReceiver {
    pub(super) fn new(store: SnapshotStore) -> Self {
        Self { store, now: Mutex::new(None) }
    }

    /// Adds a chunk; the response names the next offset.
    pub(super) async fn take(&self, raft: &Raft, from: u64, part: Part) -> Option<Response> {
        let ours = raft.metrics().borrow().vote;
        if ours > part.vote {
            return Some(Response::Installed(ours));
        }
        let mut now = self.now.lock().await;
        let name = (from, part.vote, part.transfer);
        let known = now.take().filter(|transfer| transfer.name == name);
        let mut transfer = match known {
            Some(transfer) => transfer,
            None if part.offset > 0 => return Some(Response::Part(0)),
            None => {
                let receiving = self.store.receive().await.map_err(|error| complain(&error)).ok()?;
                Transfer { name, received: 0, receiving: Some(receiving), installed: None }
            }
        };
        let answer = self.advance(raft, &mut transfer, part).await;
        // Without an answer it begins again.
        if answer.is_some() {
            *now = Some(transfer);
        }
        answer
    }

    async fn advance(&self, raft: &Raft, transfer: &mut Transfer, part: Part) -> Option<Response> {
        if let Some(vote) = transfer.installed {
            return Some(Response::Installed(vote));
        }
        if part.offset != transfer.received {
            return Some(Response::Part(transfer.received));
        }
        let length = part.bytes.len() as u64;
        let receiving =
            transfer.receiving.take()?.add(part.bytes).await.map_err(|error| complain(&error)).ok()?;
        transfer.received += length;
        if !part.last {
            transfer.receiving = Some(receiving);
            return Some(Response::Part(transfer.received));
        }
        let image = receiving.finish().await.map_err(|error| complain(&error)).ok()?;
        let bytes = image.all().await.map_err(|error| complain(&error)).ok()?;
        let meta = snapshot::open(&bytes).map_err(|error| complain(&error)).ok()?.meta;
        drop(bytes);
        let snapshot = Snapshot { meta, snapshot: Box::new(image) };
        let installed = raft.install_full_snapshot(part.vote, snapshot).await.ok()?;
        transfer.installed = Some(installed.vote);
        Some(Response::Installed(installed.vote))
    }
}

fn complain(error: &dyn std::error::Error) {
    warn!(%error, "a snapshot from the leader cannot be received");
}
