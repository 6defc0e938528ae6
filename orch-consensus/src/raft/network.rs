//! Network of openraft: requests to the other members over any transport.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use openraft::{
    AnyError, RaftNetwork, RaftNetworkFactory, Snapshot,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption, RPCTypes},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
};
use orch_core::transport::{Channel, PeerId, Transport, TransportError};

use super::{
    snapshot_store::Image,
    types::{Lease, NodeInfo, Types, Vote},
    wire::{Part, Request, Response},
};

/// Requests in a row that may fail before a transfer of a snapshot begins again.
const PART_TRIES: u32 = 5;

/// The transport, as far as this group is concerned.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) channel: Channel,
    pub(super) us: u64,
    pub(super) heartbeat: Duration,
    pub(super) part_bytes: usize,
    pub(super) part_timeout: Duration,
    pub(super) _lease: Lease,
}

/// No usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RpcError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("peer {0} answered something else")]
    Unexpected(PeerId),
    #[error("peer {0} does not lead any more")]
    Deposed(PeerId),
}

impl RpcError {
    /// True when the request may have reached the peer.
    pub(super) fn may_have_arrived(&self) -> bool {
        use TransportError as Error;
        !matches!(
            self,
            Self::Transport(Error::UnknownPeer(_) | Error::Busy(_) | Error::TooLarge { .. } | Error::Closed)
        )
    }
}

impl Network {
    pub(super) async fn call(
        &self,
        peer: PeerId,
        request: Bytes,
        timeout: Duration,
    ) -> Result<Response, RpcError> {
        let answer = self.transport.request(peer, self.channel, request, timeout).await?;
        Response::from_message(answer).map_err(|_| RpcError::Unexpected(peer))
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("us", &self.us).finish_non_exhaustive()
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Link {
        Link { network: self.clone(), target, peer: node.peer() }
    }
}

/// The way to one member.
#[derive(Debug)]
pub(super) struct Link {
    network: Network,
    target: u64,
    peer: PeerId,
}

type Failure = RPCError<u64, NodeInfo, RaftError<u64>>;

impl Link {
    fn failure(&self, error: &RpcError, action: RPCTypes, timeout: Duration) -> Failure {
        match error {
            RpcError::Transport(TransportError::Timeout(_)) => {
                RPCError::Timeout(Timeout { action, id: self.network.us, target: self.target, timeout })
            }
            // Anything else would fail again at once: openraft waits a little after this one.
            error => RPCError::Unreachable(Unreachable::new(error)),
        }
    }

    async fn send_parts(&self, vote: Vote, image: &Image) -> Result<Vote, RpcError> {
        let (length, transfer) = (image.length(), transfer_number());
        let (mut offset, mut failures) = (0, 0);
        loop {
            let bytes = match image.read(offset, self.network.part_bytes).await {
                Ok(bytes) => bytes,
                Err(error) => return Err(self.gave_up(&format!("the snapshot cannot be read: {error}"))),
            };
            let last = offset + bytes.len() as u64 >= length;
            let part = Request::Part(Part { vote, transfer, offset, last, bytes });
            match self.network.call(self.peer, part.to_message(), self.network.part_timeout).await {
                Ok(Response::Installed(vote)) => return Ok(vote),
                Ok(Response::Part(next)) if next <= length && next != offset => {
                    (offset, failures) = (next, 0);
                }
                Ok(_) if failures >= PART_TRIES => return Err(RpcError::Unexpected(self.peer)),
                Err(error) if failures >= PART_TRIES => return Err(error),
                _ => {
                    failures += 1;
                    tokio::time::sleep(self.network.heartbeat).await;
                }
            }
        }
    }

    fn gave_up(&self, reason: &str) -> RpcError {
        RpcError::Transport(TransportError::Connection { peer: self.peer, reason: reason.into() })
    }
}

/// A number that this process did not use before.
fn transfer_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        let timeout = option.hard_ttl();
        match self.network.call(self.peer, Request::Append(rpc).to_message(), timeout).await {
            Ok(Response::Append(response)) => Ok(response),
            Ok(_) => Err(self.failure(&RpcError::Unexpected(self.peer), RPCTypes::AppendEntries, timeout)),
            Err(error) => Err(self.failure(&error, RPCTypes::AppendEntries, timeout)),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, option: RPCOption) -> Result<VoteResponse<u64>, Failure> {
        let timeout = option.hard_ttl();
        match self.network.call(self.peer, Request::Vote(rpc).to_message(), timeout).await {
            Ok(Response::Vote(response)) => Ok(response),
            Ok(_) => Err(self.failure(&RpcError::Unexpected(self.peer), RPCTypes::Vote, timeout)),
            Err(error) => Err(self.failure(&error, RPCTypes::Vote, timeout)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_parts(vote, &snapshot.snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::from(AnyError::new(&error)))),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(self.network.heartbeat))
    }
}
