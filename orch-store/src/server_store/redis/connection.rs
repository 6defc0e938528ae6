//! One connection that all calls share, made again when it was lost. Requests follow each other on it without
//! waiting for answers.

use std::{io, sync::Arc};

use orch_core::store::StoreError;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, RedisError,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    task::AbortHandle,
    time::{Duration, Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    config::RedisStoreConfig,
    error::{self, Cause},
    tls,
};

pub(super) struct Connection {
    connector: Arc<Connector>,
    current: Mutex<Option<Current>>,
}

struct Current {
    made: Instant,
    commands: MultiplexedConnection,
    /// Task that writes and reads; `None` where it is the client's own.
    driver: Option<AbortHandle>,
}

impl Connection {
    /// Connects with the first call.
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        Self { connector, current: Mutex::new(None) }
    }

    /// A handle to the connection, which is made if there is none.
    pub(super) async fn get(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut current = self.current.lock().await;
        // On one that has ended since, a commit would fail as if it might have arrived.
        let ended = |driver: &AbortHandle| driver.is_finished();
        if let Some(Current { commands, driver, .. }) = &*current
            && !driver.as_ref().is_some_and(ended)
        {
            return Ok(commands.clone());
        }
        let (commands, driver) = self.connector.commands().await?;
        Ok(current.insert(Current { made: Instant::now(), commands, driver }).commands.clone())
    }

    /// A call that began at `asked` failed: the next one gets a new connection, unless there is one since.
    pub(super) async fn lose(&self, asked: Instant) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|current| current.made <= asked) {
            current.take();
        }
    }
}

/// Makes connections, encrypted or not.
pub(super) struct Connector {
    client: Client,
    tls: Option<TlsConnector>,
    /// That of connecting, and of each answer.
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(config: &RedisStoreConfig) -> Result<Self, StoreError> {
        let failed = |cause| error::backend("connecting", false, cause);
        let client = Client::open(config.server.info.clone());
        let client = client.map_err(|source| failed(Cause::Parameters { source }))?;
        let tls = config.server.tls.as_ref().map(|files| files.connector().map_err(failed)).transpose()?;
        Ok(Self { client, tls, timeout: config.timeout })
    }

    /// For requests and their answers. A server that throws records away is refused: that may have been set
    /// since the last connection.
    async fn commands(&self) -> Result<(MultiplexedConnection, Option<AbortHandle>), RedisError> {
        let (mut connection, driver) = self.connect().await?;
        match eviction_policy(&mut connection).await? {
            Some(policy) if policy.starts_with("allkeys") => Err(error::evicts(&policy)),
            _ => Ok((connection, driver)),
        }
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, Option<AbortHandle>), RedisError> {
        let settings = AsyncConnectionConfig::new();
        let settings =
            settings.set_connection_timeout(Some(self.timeout)).set_response_timeout(Some(self.timeout));
        let info = self.client.get_connection_info();
        let (redis, address) = (info.redis_settings(), info.addr());
        let (connection, driver) = match (&self.tls, address) {
            (None, ConnectionAddr::Tcp(host, port)) => {
                let made = async {
                    let stream = TcpStream::connect((&**host, *port)).await?;
                    stream.set_nodelay(true)?;
                    MultiplexedConnection::new_with_config(redis, stream, settings).await
                };
                let (connection, driver) = self.in_time(made).await?;
                (connection, tokio::spawn(driver))
            }
            (None, _) => {
                return Ok((
                    self.client.get_multiplexed_async_connection_with_config(&settings).await?,
                    None,
                ));
            }
            (Some(connector), _) => {
                let made = self.encrypted(connector, async |stream| {
                    MultiplexedConnection::new_with_config(redis, stream, settings).await
                });
                let (connection, driver) = made.await?;
                (connection, tokio::spawn(driver))
            }
        };
        // The driver ends with the last handle.
        Ok((connection, Some(driver.abort_handle())))
    }

    /// For messages of the server.
    pub(super) async fn pubsub(&self) -> Result<PubSub, RedisError> {
        match &self.tls {
            None => self.client.get_async_pubsub().await,
            Some(connector) => {
                let info = self.client.get_connection_info().redis_settings();
                self.encrypted(connector, async |stream| PubSub::new(info, stream).await).await
            }
        }
    }

    /// Connects, and logs in by `log_in`.
    async fn encrypted<T>(
        &self,
        connector: &TlsConnector,
        log_in: impl AsyncFnOnce(tls::Stream) -> Result<T, RedisError>,
    ) -> Result<T, RedisError> {
        let ConnectionAddr::Tcp(host, port) = self.client.get_connection_info().addr() else {
            return Err(io::Error::other("only connections over a network are encrypted").into());
        };
        self.in_time(async { log_in(tls::connect(connector, host, *port).await?).await }).await
    }

    async fn in_time<T>(&self, made: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
        let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut).into());
        timeout(self.timeout, made).await.unwrap_or_else(late)
    }
}

/// The server's `maxmemory-policy`; `None` where it is hidden.
async fn eviction_policy(connection: &mut MultiplexedConnection) -> Result<Option<String>, RedisError> {
    let info = redis::cmd("INFO").arg("memory").query_async::<String>(connection).await;
    let policy = match info {
        Ok(info) => info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::to_owned),
        Err(error) if error::is_passing(&error) => return Err(error),
        Err(_) => None,
    };
    match policy {
        Some(policy) => Ok(Some(policy)),
        None => setting(connection, "maxmemory-policy").await,
    }
}

/// A setting of the server; `None` where they are hidden, as hosted servers do.
pub(super) async fn setting(
    connection: &mut MultiplexedConnection,
    name: &str,
) -> Result<Option<String>, RedisError> {
    match redis::cmd("CONFIG").arg("GET").arg(name).query_async(connection).await {
        Ok(pairs) => Ok(Vec::<String>::into_iter(pairs).nth(1)),
        Err(error) if error::is_passing(&error) => Err(error),
        Err(_) => Ok(None),
    }
}
