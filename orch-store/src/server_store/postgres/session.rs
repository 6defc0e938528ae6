//! Connections: each with its statements prepared, made again when it was lost.

use std::{
    future::{Future, poll_fn},
    hash::{BuildHasher as _, RandomState},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use orch_core::store::StoreError;
use tokio::sync::Mutex;
use tokio_postgres::{AsyncMessage, Client, Error, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    super::retry::Attempts,
    config::PostgresStoreConfig,
    error::{self, Cause},
};

/// The longest delay between attempts to connect.
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Called on a notification of the server.
pub(super) type OnNews = Arc<dyn Fn() + Send + Sync>;

/// A connection with what it has prepared.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) statements: Statements,
}

/// All statements that the store has for its tables.
pub(super) struct Statements {
    pub(super) get: Statement,
    pub(super) scan: Statement,
    pub(super) revision: Statement,
    pub(super) log: Statement,
    pub(super) compact: Statement,
    pub(super) begin: Statement,
    pub(super) apply: Statement,
    pub(super) commit: Statement,
}

/// Makes connections.
pub(super) struct Connector {
    server: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    schema: String,
    retry_deadline: Duration,
    /// Payload of the notifications of this store's own commits, which are not listened for.
    mark: String,
}

impl Connector {
    pub(super) fn new(config: &PostgresStoreConfig) -> Result<Self, StoreError> {
        let tls =
            config.server.trust.connector().map_err(|cause| error::backend("connecting", false, cause))?;
        let PostgresStoreConfig { server, schema, retry_deadline, .. } = config.clone();
        let mark = format!("{:016x}", RandomState::new().hash_one(&schema));
        Ok(Self { server: server.config, tls, schema, retry_deadline, mark })
    }

    /// A connection without prepared statements; the schema may be missing.
    pub(super) async fn connect(&self, on_news: Option<OnNews>) -> Result<Client, Error> {
        let (client, mut connection) = self.server.connect(self.tls.clone()).await?;
        let mark = self.mark.clone();
        // Ends with the client, or when the connection is lost.
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                match (message, &on_news) {
                    (AsyncMessage::Notification(said), _) if said.payload() == mark => {}
                    (AsyncMessage::Notification(_), Some(on_news)) => on_news(),
                    (AsyncMessage::Notice(notice), _) => tracing::debug!(%notice, "the server says"),
                    _ => {}
                }
            }
            drop(connection);
            // Waiters for notifications must poll now.
            on_news.iter().for_each(|on_news| on_news());
        });
        // Each statement of a commit sees what was committed before it, whatever is usual in this database. A
        // connection that hangs in the middle of one must not hold up everybody else. Statements are planned
        // once, perhaps while the tables are small, and must stay good when they are large.
        let set_up = format!(
            "SET search_path TO {}; SET default_transaction_isolation TO 'read committed'; \
             SET default_transaction_read_only TO off; SET idle_in_transaction_session_timeout TO '15s'; \
             SET enable_seqscan TO off; SET jit TO off; SET plan_cache_mode TO force_generic_plan; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
            self.schema
        );
        client.batch_execute(&set_up).await?;
        Ok(client)
    }

    /// A connection as readers and the writer need it. Tries again until the retry deadline.
    pub(super) async fn session(&self) -> Result<Session, StoreError> {
        let try_once = async || {
            let client = self.connect(None).await?;
            let statements = Statements::prepare(&client, &self.schema, &self.mark).await?;
            Ok(Session { client, statements })
        };
        self.retry_until_deadline(try_once).await
    }

    /// Does what needs a connection of its own until it works, its failure does not pass, or the retry
    /// deadline has passed.
    pub(super) async fn retry_until_deadline<T, F: Future<Output = Result<T, Error>>>(
        &self,
        mut connect: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let mut attempts = Attempts::within(self.retry_deadline, LONGEST_DELAY);
        loop {
            // A server that takes the connection and then says nothing.
            let limit = self.retry_deadline.max(LONGEST_DELAY);
            let source = match tokio::time::timeout(limit, connect()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => return Err(error::backend("connecting", true, Cause::Silent(limit))),
            };
            if !error::is_passing(&source) {
                return Err(error::statement("connecting", source));
            }
            if !attempts.again().await {
                let cause = Cause::Unreachable { retry_deadline: self.retry_deadline, source };
                return Err(error::backend("connecting", true, cause));
            }
        }
    }
}

impl Statements {
    async fn prepare(client: &Client, schema: &str, mark: &str) -> Result<Self, Error> {
        let apply = format!(
            "SELECT revisions, places FROM apply($1, $2, $3, $4, $5, $6, $7, '{}', '{mark}')",
            channel(schema)
        );
        let prepare = |sql| client.prepare(sql);
        let (get, scan, revision, log, compact) = futures_util::try_join!(
            prepare("SELECT value, version FROM records WHERE key = $1"),
            prepare(include_str!("sql/scan.sql")),
            prepare("SELECT revision FROM meta"),
            prepare(include_str!("sql/log.sql")),
            prepare(include_str!("sql/compact.sql")),
        )?;
        let (begin, apply, commit) =
            futures_util::try_join!(prepare("BEGIN"), prepare(&apply), prepare("COMMIT"))?;
        Ok(Self { get, scan, revision, log, compact, begin, apply, commit })
    }
}

/// Notification channel of a store's commits.
pub(super) fn channel(schema: &str) -> String {
    format!("orch_{schema}")
}

/// A few connections that serve many readers: requests follow each other on a connection without waiting for
/// answers.
pub(super) struct Readers {
    connector: Arc<Connector>,
    slots: Box<[Mutex<Option<Arc<Session>>>]>,
    next: AtomicUsize,
}

/// Choice of a pooled connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Any,
    New,
}

impl Readers {
    pub(super) fn new(connector: Arc<Connector>, count: NonZeroUsize) -> Self {
        let slots = (0..count.get()).map(|_| Mutex::new(None)).collect();
        Self { connector, slots, next: AtomicUsize::new(0) }
    }

    /// Runs `read`, which changes nothing, and once more when the connection was lost under it: on a new one,
    /// because the others may have been lost with it and not know it yet.
    pub(super) async fn read<T, F: Future<Output = Result<T, Error>>>(
        &self,
        operation: &'static str,
        read: impl Fn(Arc<Session>) -> F,
    ) -> Result<T, StoreError> {
        match read(self.session(Freshness::Any).await?).await {
            Err(error) if error::is_connection(&error) => {}
            done => return done.map_err(|error| error::statement(operation, error)),
        }
        let session = self.session(Freshness::New).await?;
        read(session).await.map_err(|error| error::statement(operation, error))
    }

    pub(super) async fn close(&self) {
        for slot in &self.slots {
            slot.lock().await.take();
        }
    }

    async fn session(&self, freshness: Freshness) -> Result<Arc<Session>, StoreError> {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let mut slot = self.slots[index].lock().await;
        match &*slot {
            Some(session) if freshness == Freshness::Any && !session.client.is_closed() => {
                Ok(Arc::clone(session))
            }
            _ => Ok(Arc::clone(slot.insert(Arc::new(self.connector.session().await?)))),
        }
    }
}
