//! The cluster's members: one is talked to, until it does not answer.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::Stream;
#[cfg(feature = "lease")]
use futures_util::stream;
use orch_core::store::StoreError;
use prost::Message;
use tokio::sync::Semaphore;
use tonic::{
    Status, Streaming,
    metadata::AsciiMetadataValue,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use super::{
    super::retry::Attempts,
    call::Caller,
    config::{EtcdStoreConfig, EtcdTls},
    connection::{Connection, Member},
    error::{self, Cause, Remedy},
    history::History,
    login::Login,
    wire,
};

/// The longest delay between attempts.
const LONGEST_DELAY: Duration = Duration::from_millis(500);

pub(super) struct Members {
    members: Vec<Member>,
    /// Compared with what is at the other end of each new connection.
    pub(super) history: History,
    /// Counts up with each change of the member; which one it is is the rest of a division.
    current: AtomicUsize,
    login: Option<Login>,
    requests: Semaphore,
    timeout: Duration,
    retry_deadline: Duration,
}

/// The stream of a watch, and the token that it began with.
pub(super) struct Opened {
    pub(super) inbound: Streaming<wire::WatchResponse>,
    pub(super) token: Option<AsciiMetadataValue>,
    /// The connection that it is on.
    pub(super) connection: Arc<Connection>,
}

/// A call that failed, and what to do about it.
struct Failure {
    status: Status,
    remedy: Remedy,
}

impl Members {
    pub(super) fn new(config: &EtcdStoreConfig) -> Result<Self, StoreError> {
        config.check()?;
        let tls = config.tls.as_ref().map(tls_of).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let member = |member: &String| {
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{member}")).map_err(|source| {
                error::backend("connecting", false, Cause::Address { member: member.clone(), source })
            })?;
            if let Some(tls) = tls.clone() {
                let set = endpoint.tls_config(tls);
                endpoint =
                    set.map_err(|source| error::backend("connecting", false, Cause::Tls { source }))?;
            }
            // A member that vanished without a word is noticed after a few seconds.
            let endpoint = endpoint.connect_timeout(Duration::from_secs(2));
            let endpoint =
                endpoint.http2_keep_alive_interval(Duration::from_secs(5)).keep_alive_while_idle(true);
            Ok(Member::new(endpoint.keep_alive_timeout(Duration::from_secs(3))))
        };
        let members = config.members.iter().map(member).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Self {
            members,
            history: History::new(&config.namespace),
            current: AtomicUsize::new(0),
            login: config.login.clone().map(Login::new),
            requests: Semaphore::new(config.requests.get()),
            timeout: config.timeout,
            retry_deadline: config.retry_deadline,
        })
    }

    /// Asks what may be asked twice.
    pub(super) async fn ask<Q, A>(
        &self,
        operation: &'static str,
        path: &'static str,
        message: Q,
    ) -> Result<A, StoreError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        let again = |remedy| !matches!(remedy, Remedy::None);
        self.try_members(operation, again, |caller| caller.unary(path, message.clone()))
            .await?
            .map_err(|failure| self.unreachable_or_refused(operation, failure))
    }

    /// Sends a transaction that changes something. It is sent again only when nothing was done about it.
    pub(super) async fn change(&self, txn: wire::TxnRequest) -> Result<wire::TxnResponse, StoreError> {
        let unsent = |remedy| matches!(remedy, Remedy::Elsewhere | Remedy::LogIn);
        self.try_members("committing", unsent, |caller| caller.unary(wire::TXN, txn.clone())).await?.map_err(
            |failure| match failure.remedy {
                Remedy::Unknown => error::lost_commit(failure.status),
                _ => self.unreachable_or_refused("committing", failure),
            },
        )
    }

    /// Renews a lease of the cluster. Whether there is one.
    #[cfg(feature = "lease")]
    pub(super) async fn keep_alive(&self, id: i64) -> Result<bool, StoreError> {
        let operation = "renewing a lease";
        let again = |remedy| !matches!(remedy, Remedy::None);
        let call = |caller: Caller| async move {
            let request = stream::iter([wire::LeaseId { id }]);
            let mut answers = caller.streaming(wire::LEASE_KEEP_ALIVE, request).await?;
            answers.message().await?.ok_or_else(|| Status::unavailable("the member ended the stream"))
        };
        let answer = self.try_members(operation, again, call).await?;
        let answer: wire::LeaseKeepAliveResponse =
            answer.map_err(|failure| self.unreachable_or_refused(operation, failure))?;
        Ok(answer.ttl > 0)
    }

    /// Opens the stream of a watch, on the member of this turn.
    pub(super) async fn stream(
        &self,
        requests: impl Stream<Item = wire::WatchRequest> + Send + 'static,
    ) -> (usize, Result<Opened, Status>) {
        let (turn, connection) = self.connection();
        let opened = async {
            let caller = self.ready(&connection).await.map_err(|failure| failure.status)?;
            let token = caller.token.clone();
            let inbound = caller.streaming(wire::WATCH, requests).await;
            let inbound = inbound.inspect_err(|status| self.log_out_if(status, token.as_ref()))?;
            Ok(Opened { inbound, token, connection: Arc::clone(&connection) })
        };
        let opened = tokio::time::timeout(self.timeout, opened).await;
        if !matches!(opened, Ok(Ok(_))) {
            self.lose(turn, &connection);
        }
        (turn, opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("the watch did not begin"))))
    }

    /// A member did not take this token: the next call logs in again.
    pub(super) fn log_out(&self, token: Option<&AsciiMetadataValue>) {
        if let (Some(login), Some(token)) = (&self.login, token) {
            login.forget(token);
        }
    }

    /// The member of this turn may be another one the next time.
    pub(super) fn lose(&self, turn: usize, connection: &Arc<Connection>) {
        self.members[turn % self.members.len()].lose(connection);
    }

    /// The member of this turn does not answer: it is somebody else's turn. Many that find out together move
    /// on once.
    pub(super) fn pass_on(&self, turn: usize) {
        let _ =
            self.current.compare_exchange(turn, turn.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks one member after the other while `again` allows it, until the retry deadline.
    async fn try_members<A, F>(
        &self,
        operation: &'static str,
        again: impl Fn(Remedy) -> bool,
        call: impl Fn(Caller) -> F,
    ) -> Result<Result<A, Failure>, StoreError>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let _permit = self.requests.acquire().await.map_err(|_| StoreError::Closed)?;
        let mut attempts = Attempts::within(self.retry_deadline, LONGEST_DELAY);
        loop {
            let (turn, connection) = self.connection();
            let failure = match self.call(&connection, &call).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(failure) => failure,
            };
            if matches!(failure.remedy, Remedy::Elsewhere | Remedy::Unknown) {
                self.lose(turn, &connection);
                self.pass_on(turn);
            }
            if !again(failure.remedy) {
                return Ok(Err(failure));
            }
            tracing::debug!(operation, status = %failure.status, "a member failed");
            if !attempts.again().await {
                return Ok(Err(failure));
            }
        }
    }

    async fn call<A, F>(&self, connection: &Connection, call: impl Fn(Caller) -> F) -> Result<A, Failure>
    where
        F: Future<Output = Result<A, Status>>,
    {
        let caller = self.ready(connection).await?;
        let token = caller.token.clone();
        let answer = tokio::time::timeout(self.timeout, call(caller)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the member did not answer")));
        answer.map_err(|status| {
            self.log_out_if(&status, token.as_ref());
            Failure { remedy: error::remedy(&status), status }
        })
    }

    /// A caller that is logged in, on a connection whose other end has the known history.
    async fn ready(&self, connection: &Connection) -> Result<Caller, Failure> {
        let silent = |_| Err(Status::deadline_exceeded("the member did not answer"));
        // What comes after was not sent.
        let unsent = |status| match error::remedy(&status) {
            Remedy::Unknown => Failure { remedy: Remedy::Elsewhere, status },
            remedy => Failure { remedy, status },
        };
        let token = match &self.login {
            None => None,
            Some(login) => {
                let token = tokio::time::timeout(self.timeout, login.token(&connection.channel)).await;
                Some(token.unwrap_or_else(silent).map_err(unsent)?)
            }
        };
        let caller = || Caller { channel: connection.channel.clone(), token: token.clone() };
        let verify = connection.verified.get_or_try_init(|| self.history.verify(caller));
        let verified = tokio::time::timeout(self.timeout, verify).await;
        let verified =
            verified.unwrap_or_else(|_| Err(Status::deadline_exceeded("the member did not answer")));
        if let Err(status) = verified {
            self.log_out_if(&status, token.as_ref());
            return Err(unsent(status));
        }
        Ok(caller())
    }

    fn log_out_if(&self, status: &Status, token: Option<&AsciiMetadataValue>) {
        if matches!(error::remedy(status), Remedy::LogIn) {
            self.log_out(token);
        }
    }

    fn unreachable_or_refused(&self, operation: &'static str, failure: Failure) -> StoreError {
        let Failure { status: source, remedy } = failure;
        match remedy {
            Remedy::None | Remedy::LogIn => error::refused(operation, source),
            Remedy::Elsewhere | Remedy::Unknown => error::backend(
                operation,
                true,
                Cause::Unreachable { retry_deadline: self.retry_deadline, source },
            ),
        }
    }

    fn connection(&self) -> (usize, Arc<Connection>) {
        let turn = self.current.load(Ordering::Relaxed);
        (turn, self.members[turn % self.members.len()].connection())
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
