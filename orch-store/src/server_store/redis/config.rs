//! Settings of the Redis store, and its URL.

use std::{fmt, num::NonZeroU64, path::PathBuf, time::Duration};

use orch_core::store::StoreError;
use percent_encoding::percent_decode_str;
use redis::{ConnectionInfo, IntoConnectionInfo};

use super::{
    error::{self, Cause},
    tls::Files,
};

/// Address and bounds of a [`RedisStore`](super::RedisStore).
#[derive(Clone, Debug)]
pub struct RedisStoreConfig {
    /// The server, and how to log in there: from a URL.
    pub server: RedisServer,
    /// Prefix of the store's keys in Redis. Stores with different namespaces share a server and nothing else.
    pub namespace: String,
    /// Revisions that are kept at least for watches. Some eighth more may be there: the log is trimmed in
    /// steps.
    pub history_revisions: NonZeroU64,
    /// Memory that the log of those revisions may take on the server, in bytes: it is trimmed beyond, in
    /// steps of an eighth, also when fewer revisions are left then. Each process may add a sixteenth before
    /// it looks.
    pub history_bytes: u64,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes, and the most guards, of one transaction; at most 1,000, which is what a script can
    /// hand on.
    pub max_txn_writes: usize,
    /// Bytes of transactions that are under way. A `commit` beyond waits for permits. Each counts for at
    /// least 1 KiB.
    pub queue_bytes: usize,
    /// Time limit of one answer of the server.
    pub timeout: Duration,
    /// Time for which a call is tried again after the connection was lost.
    pub retry_deadline: Duration,
    /// Watches poll at this interval also without notifications.
    pub poll_interval: Duration,
}

/// Address, database, login, and whom to trust. Its `Debug` form shows no password.
#[derive(Clone)]
pub struct RedisServer {
    pub(super) info: ConnectionInfo,
    /// TLS settings; `None` for connections that are not encrypted.
    pub(super) tls: Option<Files>,
}

impl RedisStoreConfig {
    /// Reads `redis://user:password@host:port/database?namespace=orch`, and `rediss://` for encrypted
    /// connections. Everything but the host may be missing. Only with `rediss://` there are the parameters:
    ///
    /// - `ca`: a file with the certificates of authorities, in PEM, instead of those that browsers trust;
    /// - `cert` and `key`: files with the certificate that the server knows this process by, and its private
    ///   key, in PEM.
    ///
    /// # Errors
    /// [`StoreError::Backend`] names what cannot be understood, and never shows the URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let invalid = |cause| error::backend("reading the URL", false, cause);
        if url.contains('#') {
            return Err(invalid(Cause::Setting("it ends before a #; write %23 for one in a password")));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut namespace, mut ca, mut cert, mut key) = (String::from("orch"), None, None, None);
        let mut others = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value).decode_utf8();
            let value = value.map_err(|_| invalid(Cause::Setting("the URL is not UTF-8")))?.into_owned();
            match name {
                "namespace" => namespace = value,
                "ca" => ca = Some(PathBuf::from(value)),
                "cert" => cert = Some(PathBuf::from(value)),
                "key" => key = Some(PathBuf::from(value)),
                _ => others.push(parameter),
            }
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(invalid(Cause::Setting("cert and key belong together"))),
        };
        // Encryption is ours; the client has it only with more of other crates.
        let (base, files) = match base.strip_prefix("rediss://") {
            Some(rest) => (format!("redis://{rest}"), Some(Files { ca, identity })),
            None if ca.is_none() && identity.is_none() => (base.to_owned(), None),
            None => return Err(invalid(Cause::Setting("ca, cert and key are for rediss:// URLs"))),
        };
        let info = format!("{base}?{}", others.join("&"));
        let info = info.trim_end_matches('?').into_connection_info();
        let info = info.map_err(|source| invalid(Cause::Parameters { source }))?;
        Ok(Self {
            server: RedisServer { info, tls: files },
            namespace,
            history_revisions: const { NonZeroU64::new(65_536).expect("not zero") },
            history_bytes: 256 << 20,
            max_value_bytes: 4 << 20,
            max_txn_writes: MAX_TXN_WRITES,
            queue_bytes: 16 << 20,
            timeout: Duration::from_secs(5),
            retry_deadline: Duration::from_secs(10),
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

/// Each takes two slots on the stack of a script, which has 8,000.
const MAX_TXN_WRITES: usize = 1_000;

impl fmt::Debug for RedisServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisServer({})", self.info.addr())
    }
}
