//! One connection that all calls share, made again when it was lost. Requests follow each other on it without waiting for
//! answers.

use redis::{AsyncConnectionConfig, Client, RedisError, aio::MultiplexedConnection};
use tokio::{
    sync::Mutex,
    time::{Duration, Instant},
};

pub(super) struct Connection {
    client: Client,
    settings: AsyncConnectionConfig,
    /// With the moment when it was made.
    current: Mutex<Option<(Instant, MultiplexedConnection)>>,
}

impl Connection {
    /// Connects with the first call. `timeout` is that of connecting, and of each answer.
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        let settings = AsyncConnectionConfig::new();
        let settings = settings.set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        Self { client, settings, current: Mutex::new(None) }
    }

    /// A handle to the connection, which is made if there is none.
    pub(super) async fn get(&self) -> Result<MultiplexedConnection, RedisError> {
        let mut current = self.current.lock().await;
        if let Some((_, connection)) = &*current {
            return Ok(connection.clone());
        }
        let connection = self.client.get_multiplexed_async_connection_with_config(&self.settings).await?;
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
