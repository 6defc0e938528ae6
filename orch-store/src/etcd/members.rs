//! The cluster's members: one is talked to, until it does not answer.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::Stream;
use orch_core::store::StoreError;
use prost::Message;
use tokio::{sync::Semaphore, time::Instant};
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_prost::ProstCodec;

use super::{
    EtcdStoreConfig, EtcdTls,
    error::{self, Cause, Remedy},
    wire,
};

/// Waits between tries.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

pub(super) struct Members {
    channels: Vec<Channel>,
    /// Counts up with each change of the member; which one it is is the rest of a division.
    current: AtomicUsize,
    room: Semaphore,
    timeout: Duration,
    patience: Duration,
}

impl Members {
    pub(super) fn new(config: &EtcdStoreConfig) -> Result<Self, StoreError> {
        let tls = config.tls.as_ref().map(tls_of).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let channel = |member: &String| {
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{member}")).map_err(|source| {
                error::backend("connecting", false, Cause::Address { member: member.clone(), source })
            })?;
            if let Some(tls) = tls.clone() {
                let set = endpoint.tls_config(tls);
                endpoint =
                    set.map_err(|source| error::backend("connecting", false, Cause::Tls { source }))?;
            }
            // A member that vanished without a word is noticed after a few seconds.
            let endpoint = endpoint.connect_timeout(Duration::from_secs(2)).tcp_nodelay(true);
            let endpoint =
                endpoint.http2_keep_alive_interval(Duration::from_secs(5)).keep_alive_while_idle(true);
            Ok(endpoint.keep_alive_timeout(Duration::from_secs(3)).connect_lazy())
        };
        let channels = config.members.iter().map(channel).collect::<Result<Vec<_>, StoreError>>()?;
        if channels.is_empty() {
            return Err(error::backend("connecting", false, Cause::Url("there is no member to talk to")));
        }
        Ok(Self {
            channels,
            current: AtomicUsize::new(0),
            room: Semaphore::new(config.requests.get()),
            timeout: config.timeout,
            patience: config.patience,
        })
    }

    /// Asks what may be asked twice.
    pub(super) async fn ask<Q, A>(
        &self,
        operation: &'static str,
        path: &'static str,
        question: Q,
    ) -> Result<A, StoreError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.try_members(operation, path, question, |status| !matches!(error::remedy(status), Remedy::None))
            .await?
            .map_err(|source| match error::remedy(&source) {
                Remedy::None => error::backend(operation, false, Cause::Refused { source }),
                _ => error::backend(operation, true, Cause::Unreachable { patience: self.patience, source }),
            })
    }

    /// Sends a transaction that changes something. It is sent again only when it was not sent at all.
    pub(super) async fn change(&self, txn: wire::TxnRequest) -> Result<wire::TxnResponse, StoreError> {
        let unsent = |status: &Status| matches!(error::remedy(status), Remedy::Elsewhere);
        self.try_members("committing", wire::TXN, txn, unsent).await?.map_err(|source| {
            match error::remedy(&source) {
                Remedy::Elsewhere => {
                    error::backend("committing", true, Cause::Unreachable { patience: self.patience, source })
                }
                Remedy::Unknown => error::lost_commit(source),
                Remedy::None => error::backend("committing", false, Cause::Refused { source }),
            }
        })
    }

    /// Opens the stream of a watch, on the member of this turn.
    pub(super) async fn stream(
        &self,
        requests: impl Stream<Item = wire::WatchRequest> + Send + 'static,
    ) -> (usize, Result<Streaming<wire::WatchResponse>, Status>) {
        let (turn, channel) = self.channel();
        let opened = async {
            let mut client = client(channel).await?;
            let mut request = Request::new(requests);
            // A member that lost sight of the others ends the stream, instead of being silent for ever.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
            let path = PathAndQuery::from_static(wire::WATCH);
            Ok(client.streaming(request, path, ProstCodec::default()).await?.into_inner())
        };
        let opened = tokio::time::timeout(self.timeout, opened).await;
        (turn, opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("the watch did not begin"))))
    }

    /// The member of this turn does not answer: it is somebody else's turn. Many that find out together move on once.
    pub(super) fn pass_on(&self, turn: usize) {
        let _ =
            self.current.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks one member after the other while `again` allows it and patience lasts.
    async fn try_members<Q, A>(
        &self,
        operation: &'static str,
        path: &'static str,
        question: Q,
        again: impl Fn(&Status) -> bool,
    ) -> Result<Result<A, Status>, StoreError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let _room = self.room.acquire().await.map_err(|_| StoreError::Closed)?;
        let (end, mut wait) = (Instant::now() + self.patience, FIRST_WAIT);
        loop {
            let (turn, channel) = self.channel();
            let answer = tokio::time::timeout(self.timeout, unary(channel, path, question.clone())).await;
            let status = match answer {
                Ok(Ok(answer)) => return Ok(Ok(answer)),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the member did not answer"),
            };
            if !matches!(error::remedy(&status), Remedy::None) {
                self.pass_on(turn);
            }
            if !again(&status) || Instant::now() + wait > end {
                return Ok(Err(status));
            }
            tracing::debug!(operation, %status, "asking another member");
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn channel(&self) -> (usize, Channel) {
        let turn = self.current.load(Ordering::Relaxed);
        (turn, self.channels[turn % self.channels.len()].clone())
    }
}

fn tls_of(files: &EtcdTls) -> Result<ClientTlsConfig, StoreError> {
    let read = |path: &PathBuf| {
        let cause = |source| Cause::File { path: path.clone(), source };
        std::fs::read(path).map_err(|source| error::backend("connecting", false, cause(source)))
    };
    let mut tls = match &files.ca {
        Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
        None => ClientTlsConfig::new().with_webpki_roots(),
    };
    if let Some((certificate, key)) = &files.identity {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}

async fn unary<Q, A>(channel: Channel, path: &'static str, question: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut client = client(channel).await?;
    let path = PathAndQuery::from_static(path);
    Ok(client.unary(Request::new(question), path, ProstCodec::default()).await?.into_inner())
}

async fn client(channel: Channel) -> Result<Grpc<Channel>, Status> {
    // What a page or a batch may hold is bounded by what was asked for and by etcd.
    let mut client = Grpc::new(channel).max_decoding_message_size(usize::MAX);
    client.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(client)
}

/// Whether the cluster has compacted what it was asked for before.
pub(super) fn is_compacted(error: &StoreError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<Cause>());
    matches!(cause, Some(Cause::Refused { source }) if source.code() == tonic::Code::OutOfRange && source.message().contains("compacted"))
}
