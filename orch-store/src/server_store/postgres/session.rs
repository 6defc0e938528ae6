//! Connections: each with its statements prepared, made again when it was lost.

use std::{
    future::{Future, poll_fn},
    hash::{BuildHasher as _, RandomState},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::TryStreamExt as _;
use orch_core::store::{Durability, StoreError};
use tokio::time::timeout;
use tokio_postgres::{
    AsyncMessage, Client, Error, Row, Statement,
    error::{DbError, Severity},
    types::ToSql,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    super::retry::Attempts,
    config::PostgresStoreConfig,
    durability::Settings,
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
    /// Process of the server that serves it.
    pub(super) process: i32,
    /// Its commits are answered when a standby has them, as it was set up when it was made.
    pub(super) replicated: bool,
    /// The server warned.
    warned: Arc<AtomicBool>,
    /// It did not answer in time.
    silent: AtomicBool,
}

impl Session {
    /// True if nothing is known against it.
    pub(super) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.silent.load(Ordering::Relaxed)
    }

    /// True if the server warned since this was asked last.
    pub(super) fn take_warned(&self) -> bool {
        self.warned.swap(false, Ordering::Relaxed)
    }

    /// Rows of a statement. Each of them may take that long.
    pub(super) async fn rows(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
        limit: Duration,
    ) -> Result<Vec<Row>, Cause> {
        let silent = |_| {
            self.silent.store(true, Ordering::Relaxed);
            Cause::Silent(limit)
        };
        let parameters = parameters.iter().copied();
        let asked = timeout(limit, self.client.query_raw(statement, parameters)).await;
        let (mut stream, mut rows) = (pin!(asked.map_err(silent)??), Vec::new());
        while let Some(row) = timeout(limit, stream.try_next()).await.map_err(silent)?? {
            rows.push(row);
        }
        Ok(rows)
    }
}

/// All statements that the store has for its tables.
pub(super) struct Statements {
    pub(super) get: Statement,
    pub(super) scan: Statement,
    pub(super) head: Statement,
    pub(super) log: Statement,
    pub(super) forget: Statement,
    pub(super) settle: Statement,
    pub(super) surplus: Statement,
    pub(super) apply_step: Statement,
    pub(super) apply_steps: Statement,
}

/// Makes connections.
pub(super) struct Connector {
    /// A configuration for each host.
    hosts: Vec<tokio_postgres::Config>,
    tls: MakeRustlsConnect,
    set_up: String,
    schema: String,
    /// Time limit of an answer.
    pub(super) timeout: Duration,
    retry_deadline: Duration,
    /// Payload of the notifications of this store's own commits, which are not listened for.
    mark: String,
}

impl Connector {
    pub(super) fn new(config: &PostgresStoreConfig) -> Result<Self, StoreError> {
        let tls =
            config.server.trust.connector().map_err(|cause| error::backend("connecting", false, cause))?;
        let PostgresStoreConfig { server, schema, retry_deadline, timeout, .. } = config.clone();
        let mark = format!("{:016x}", RandomState::new().hash_one(&schema));
        let (hosts, set_up) = (server.hosts(), set_up(&schema, timeout));
        Ok(Self { hosts, tls, set_up, schema, timeout, retry_deadline, mark })
    }

    /// A connection without prepared statements, to the first host that has one; the schema may be missing.
    pub(super) async fn connect(&self, on_news: Option<OnNews>) -> Result<Client, Cause> {
        self.connect_noting(on_news, Arc::default()).await
    }

    async fn connect_noting(
        &self,
        on_news: Option<OnNews>,
        warned: Arc<AtomicBool>,
    ) -> Result<Client, Cause> {
        let mut failed = Cause::Silent(self.timeout);
        for host in &self.hosts {
            let connect = self.connect_to(host, on_news.clone(), Arc::clone(&warned));
            match timeout(self.timeout, connect).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(source)) => failed = Cause::Client { source },
                // It takes the connection and then says nothing.
                Err(_) => failed = Cause::Silent(self.timeout),
            }
        }
        Err(failed)
    }

    async fn connect_to(
        &self,
        host: &tokio_postgres::Config,
        on_news: Option<OnNews>,
        warned: Arc<AtomicBool>,
    ) -> Result<Client, Error> {
        let (client, mut connection) = host.connect(self.tls.clone()).await?;
        let mark = self.mark.clone();
        // Ends with the client, or when the connection is lost.
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                match (message, &on_news) {
                    (AsyncMessage::Notification(said), _) if said.payload() == mark => {}
                    (AsyncMessage::Notification(_), Some(on_news)) => on_news(),
                    (AsyncMessage::Notice(notice), _) => {
                        tracing::debug!(%notice, "the server says");
                        if DbError::parsed_severity(&notice) == Some(Severity::Warning) {
                            warned.store(true, Ordering::Relaxed);
                        }
                    }
                    _ => {}
                }
            }
            drop(connection);
            // Waiters for notifications must poll now.
            on_news.iter().for_each(|on_news| on_news());
        });
        client.batch_execute(&self.set_up).await?;
        Ok(client)
    }

    /// A connection as readers need it. Tries again until the retry deadline.
    pub(super) async fn session(&self) -> Result<Session, StoreError> {
        self.retry_until_deadline(|| self.session_now()).await
    }

    /// A connection as the writer needs it: its commits must be at least as durable as was declared. Tries
    /// again until the retry deadline.
    pub(super) async fn writing_session(&self, declared: Declared) -> Result<Session, StoreError> {
        let mut session = self.session().await?;
        let settings = timeout(self.timeout, Settings::of(&session.client)).await;
        let settings = match settings.map_err(|_| Cause::Silent(self.timeout)) {
            Ok(Ok(settings)) => settings,
            Ok(Err(source)) => return Err(error::connecting(source.into())),
            Err(silent) => return Err(error::connecting(silent)),
        };
        if settings.durability(declared.hosts) < declared.durability {
            let (settings, declared) = (settings.to_string(), declared.durability);
            return Err(error::connecting(Cause::Weaker { settings, declared }));
        }
        session.replicated = settings.replicated();
        Ok(session)
    }

    async fn session_now(&self) -> Result<Session, Cause> {
        let warned = Arc::new(AtomicBool::new(false));
        let client = self.connect_noting(None, Arc::clone(&warned)).await?;
        let prepare = async {
            let statements = Statements::prepare(&client, &self.schema, &self.mark).await?;
            let process = client.query_one("SELECT pg_backend_pid()", &[]).await?.try_get(0)?;
            Ok::<_, Error>((statements, process))
        };
        let prepared = timeout(self.timeout, prepare).await;
        let (statements, process) = prepared.map_err(|_| Cause::Silent(self.timeout))??;
        Ok(Session { client, statements, process, replicated: false, warned, silent: AtomicBool::new(false) })
    }

    /// Does what needs a connection of its own until it works, its failure does not pass, or the retry
    /// deadline has passed.
    pub(super) async fn retry_until_deadline<T, F: Future<Output = Result<T, Cause>>>(
        &self,
        mut connect: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let mut attempts = Attempts::within(self.retry_deadline, LONGEST_DELAY);
        loop {
            let cause = match connect().await {
                Ok(done) => return Ok(done),
                Err(cause) => cause,
            };
            if !error::may_pass(&cause) || error::is_lock(&cause) {
                return Err(error::connecting(cause));
            }
            if !attempts.again().await {
                let cause =
                    Cause::Unreachable { retry_deadline: self.retry_deadline, source: Box::new(cause) };
                return Err(error::connecting(cause));
            }
        }
    }
}

/// Durability that was declared when the store was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Declared {
    pub(super) durability: Durability,
    /// The number of hosts in the URL.
    pub(super) hosts: usize,
}

/// Settings of each session, whatever is usual in its database.
fn set_up(schema: &str, timeout: Duration) -> String {
    // Each statement of a commit sees what was committed before it. Statements are planned once, perhaps
    // while the tables are small, and must stay good when they are large. A client waits for a lock no longer
    // than `timeout`, with time left for the answer and for a second lock: so it learns that nothing
    // happened.
    // What nobody waits for any more must not hold up everybody else for long.
    let (lock, statement) = (timeout.as_millis() * 2 / 5, timeout.as_millis() * 12);
    format!(
        "SET search_path TO {schema}; SET default_transaction_isolation TO 'read committed'; \
         SET default_transaction_read_only TO off; SET idle_in_transaction_session_timeout TO '15s'; \
         SET lock_timeout TO {}; SET statement_timeout TO {}; \
         SET enable_seqscan TO off; SET jit TO off; SET plan_cache_mode TO force_generic_plan; \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'",
        lock.clamp(1, i32::MAX as u128),
        statement.clamp(1, i32::MAX as u128),
    )
}

impl Statements {
    async fn prepare(client: &Client, schema: &str, mark: &str) -> Result<Self, Error> {
        let call = |function: &str, parameters: usize| {
            let parameters: Vec<String> = (1..=parameters).map(|number| format!("${number}")).collect();
            let (parameters, channel) = (parameters.join(", "), channel(schema));
            format!(
                "SELECT revisions, places, head, head_commit FROM {function}({parameters}, '{channel}', '{mark}')"
            )
        };
        let (step, steps) = (call("apply_step", 9), call("apply_steps", 12));
        let prepare = |sql| client.prepare(sql);
        let (get, scan, head, log) = futures_util::try_join!(
            prepare("SELECT value, version, commit FROM records WHERE key = $1"),
            prepare(include_str!("sql/scan.sql")),
            prepare("SELECT revision, commit FROM meta"),
            prepare(include_str!("sql/log.sql")),
        )?;
        let (forget, settle, surplus, apply_step, apply_steps) = futures_util::try_join!(
            prepare("SELECT forget($1, $2)"),
            prepare("SELECT at, oldest, oldest_commit FROM settle($1, $2)"),
            prepare(include_str!("sql/surplus.sql")),
            prepare(&step),
            prepare(&steps),
        )?;
        Ok(Self { get, scan, head, log, forget, settle, surplus, apply_step, apply_steps })
    }
}

/// Notification channel of a store's commits.
pub(super) fn channel(schema: &str) -> String {
    format!("orch_{schema}")
}
