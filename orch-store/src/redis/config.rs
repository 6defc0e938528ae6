//! Settings of the Redis store, and its URL.

use std::{fmt, num::NonZeroU64, time::Duration};

use orch_core::store::StoreError;
use redis::{ConnectionInfo, IntoConnectionInfo};

use super::error::{self, Cause};

/// Where a [`RedisStore`](super::RedisStore) is and how far it goes.
#[derive(Clone, Debug)]
pub struct RedisStoreConfig {
    /// The server, and how to log in there: from a URL.
    pub server: RedisServer,
    /// What the store's keys in Redis begin with. Stores with different namespaces share a server and nothing else.
    pub namespace: String,
    /// Revisions that are kept at least for watches. Some eighth more may be there: the log is trimmed in pieces.
    pub history_revisions: NonZeroU64,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes, and the most guards, of one transaction; at most 1,000, which is what a script can hand on.
    pub max_txn_writes: usize,
    /// Bytes of transactions that are under way. A `commit` beyond waits for room. Each counts for at least 1 KiB.
    pub queue_bytes: usize,
    /// How long the server may take to answer.
    pub timeout: Duration,
    /// How long a call goes on when the connection is lost.
    pub patience: Duration,
    /// Watches look for news at this interval also when the server does not report any.
    pub poll_interval: Duration,
}

/// Address, database and login. Its `Debug` form shows no password.
#[derive(Clone)]
pub struct RedisServer(pub(super) ConnectionInfo);

impl RedisStoreConfig {
    /// Reads `redis://user:password@host:port/database?namespace=orch`. Everything but the host may be missing.
    ///
    /// # Errors
    /// [`StoreError::Backend`] names what cannot be understood, and never shows the URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let invalid = |cause| error::backend("reading the URL", false, cause);
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut namespace, mut others) = (String::from("orch"), Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.strip_prefix("namespace=") {
                Some(name) => {
                    namespace = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
                }
                None => others.push(parameter),
            }
        }
        let info = format!("{base}?{}", others.join("&"));
        let info = info.trim_end_matches('?').into_connection_info();
        let info = info.map_err(|source| invalid(Cause::Parameters { source }))?;
        Ok(Self {
            server: RedisServer(info),
            namespace,
            history_revisions: const { NonZeroU64::new(65_536).expect("not zero") },
            max_value_bytes: 4 << 20,
            max_txn_writes: MAX_TXN_WRITES,
            queue_bytes: 16 << 20,
            timeout: Duration::from_secs(5),
            patience: Duration::from_secs(10),
            poll_interval: Duration::from_secs(1),
        })
    }

    /// Braces in the name would choose another slot of a cluster for each key.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let refuse = |reason| Err(error::backend("reading the configuration", false, Cause::Setting(reason)));
        if self.namespace.is_empty() || self.namespace.contains(['{', '}']) {
            return refuse("the namespace must be a name without braces");
        }
        if self.max_txn_writes > MAX_TXN_WRITES {
            return refuse("a transaction has at most 1,000 writes");
        }
        Ok(())
    }
}

/// Each takes two places on the stack of a script, which has 8,000.
const MAX_TXN_WRITES: usize = 1_000;

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisServer({})", self.0.addr())
    }
}
