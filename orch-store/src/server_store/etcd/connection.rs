//! Connections to one member. A channel connects once: when that connection is lost another channel is made,
//! so that it is known when somebody else may be at the other end.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::HttpConnector;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tonic::{
    codegen::{Service, StdError, http::Uri},
    transport::{Channel, Endpoint},
};

/// A channel, and whether the history at its other end was compared with the known one.
pub(super) struct Connection {
    pub(super) channel: Channel,
    pub(super) verified: OnceCell<()>,
}

/// The connection to one member that is in use.
pub(super) struct Member {
    endpoint: Endpoint,
    current: Mutex<Arc<Connection>>,
}

impl Member {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        let current = Mutex::new(connect(&endpoint));
        Self { endpoint, current }
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        Arc::clone(&self.current.lock())
    }

    /// The next call gets a new connection, unless there is one since `lost` was in use.
    pub(super) fn lose(&self, lost: &Arc<Connection>) {
        let mut current = self.current.lock();
        if Arc::ptr_eq(&current, lost) {
            *current = connect(&self.endpoint);
        }
    }
}

/// Connects with the first call.
fn connect(endpoint: &Endpoint) -> Arc<Connection> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    let once = Once { connector, used: Arc::default() };
    Arc::new(Connection { channel: endpoint.connect_with_connector_lazy(once), verified: OnceCell::new() })
}

/// Connects once.
struct Once {
    connector: HttpConnector,
    used: Arc<AtomicBool>,
}

impl Service<Uri> for Once {
    type Response = <HttpConnector as Service<Uri>>::Response;
    type Error = StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, StdError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StdError>> {
        self.connector.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, used) = (self.connector.call(uri), Arc::clone(&self.used));
        Box::pin(async move {
            if used.load(Ordering::Acquire) {
                // As where nobody listens: nothing was sent.
                return Err(
                    io::Error::new(io::ErrorKind::ConnectionRefused, "the connection was lost").into()
                );
            }
            let connected = connecting.await?;
            used.store(true, Ordering::Release);
            Ok(connected)
        })
    }
}
