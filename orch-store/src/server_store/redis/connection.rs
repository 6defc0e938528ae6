//! One connection that all calls share, made again when it was lost. Requests follow each other on it without
//! waiting for answers.

use std::{io, sync::Arc};

use orch_core::store::StoreError;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, RedisError,
    aio::{MultiplexedConnection, PubSub},
};
use tokio::{
    sync::Mutex,
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
    /// With the moment when it was made.
    current: Mutex<Option<(Instant, MultiplexedConnection)>>,
}

impl Connection {
    /// Connects with the first call.
    pub(super) fn new(connector: Arc<Connector>) -> Self {
        Self { connector, current: Mutex::new(None) }
    }

    /// A handle to the connection, which is made if there is none.
    pub(super) async fn get(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut current = self.current.lock().await;
        if let Some((_, connection)) = &*current {
            return Ok(connection.clone());
        }
        let connection = self.connector.commands().await?;
        Ok(current.insert((Instant::now(), connection)).1.clone())
    }

    /// A call that began at `asked` failed: the next one gets a new connection, unless there is one since.
    pub(super) async fn lose(&self, asked: Instant) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|(made, _)| *made <= asked) {
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
    async fn commands(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.connect().await?;
        match eviction_policy(&mut connection).await? {
            Some(policy) if policy.starts_with("allkeys") => Err(error::evicts(&policy)),
            _ => Ok(connection),
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let settings = AsyncConnectionConfig::new();
        let settings =
            settings.set_connection_timeout(Some(self.timeout)).set_response_timeout(Some(self.timeout));
        let Some(connector) = &self.tls else {
            return self.client.get_multiplexed_async_connection_with_config(&settings).await;
        };
        let made = self.encrypted(connector, async |stream| {
            let info = self.client.get_connection_info().redis_settings();
            MultiplexedConnection::new_with_config(info, stream, settings).await
        });
        let (connection, working) = made.await?;
        // It ends with the last handle.
        tokio::spawn(working);
        Ok(connection)
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
        let made = async { log_in(tls::connect(connector, host, *port).await?).await };
        timeout(self.timeout, made)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
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
