//! One address for every store.

use std::sync::Arc;

use orch_core::store::{MemoryStore, StateStore, StoreError};

/// Opens the store that `url` names. Its scheme is the backend:
///
/// | URL | store | feature |
/// |---|---|---|
/// | `memory:` | `orch_core::store::MemoryStore` | none |
/// | `redb:///var/lib/orch`, `redb:data` | `redb::RedbStore` in this directory | `redb` |
/// | `sqlite:///var/lib/orch`, `sqlite:data` | `sqlite::SqliteStore` in this directory | `sqlite` |
/// | `postgres://user:password@host:5432/database?schema=orch` | `postgres::PostgresStore` | `postgres` |
/// | `etcd://host:2379,host:2379/namespace`, `etcds://user:password@host` | `etcd::EtcdStore` | `etcd` |
/// | `redis://user:password@host:6379/0?namespace=orch`, `rediss://…` | `redis::RedisStore` | `redis` |
///
/// `etcds` and `rediss` are with TLS, `postgres` where `sslmode` asks for it.
///
/// The signed store of the feature `crdt` is opened by `crdt::CrdtStore::open_on`: it takes the key that a
/// member signs with and a transport to the others, which no URL holds.
///
/// A path may contain `%20` and the like. Everything else is as each backend's configuration has it by
/// default; for other settings open the backend by its own type.
///
/// # Errors
/// [`ConnectError`] when the URL cannot be understood, when its backend was not compiled in (it names the
/// feature to switch on), and when the store cannot be opened. Nothing of the URL but its scheme is shown:
/// there may be a password in it.
pub async fn connect(url: &str) -> Result<Arc<dyn StateStore>, ConnectError> {
    let (scheme, _) = url.split_once(':').ok_or(ConnectError::NoScheme)?;
    match scheme {
        "memory" => Ok(Arc::new(MemoryStore::default())),
        #[cfg(feature = "redb")]
        "redb" => {
            let config = crate::redb::RedbStoreConfig::new(directory("redb", url)?);
            Ok(Arc::new(crate::redb::RedbStore::open(config).await?))
        }
        #[cfg(feature = "sqlite")]
        "sqlite" => {
            let config = crate::sqlite::SqliteStoreConfig::new(directory("sqlite", url)?);
            Ok(Arc::new(crate::sqlite::SqliteStore::open(config).await?))
        }
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => {
            let config = crate::postgres::PostgresStoreConfig::from_url(url)?;
            Ok(Arc::new(crate::postgres::PostgresStore::open(config).await?))
        }
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => {
            let config = crate::etcd::EtcdStoreConfig::from_url(url)?;
            Ok(Arc::new(crate::etcd::EtcdStore::open(config).await?))
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" => {
            let config = crate::redis::RedisStoreConfig::from_url(url)?;
            Ok(Arc::new(crate::redis::RedisStore::open(config).await?))
        }
        "crdt" => Err(ConnectError::NoUrl),
        _ => Err(unknown(scheme)),
    }
}

/// Why there is no store for a URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It does not begin with a scheme.
    #[error(
        "the address of a store begins with what it is, as in sqlite:///var/lib/orch; this one has no ':'"
    )]
    NoScheme,
    /// There is no such backend.
    #[error("there is no store for {scheme:?} URLs; there are {}", schemes())]
    UnknownScheme {
        /// Scheme of the URL.
        scheme: String,
    },
    /// The store takes more than a URL.
    #[error(
        "crdt: URLs cannot open the signed store, which takes a key to sign with and a transport to the other members; call \
         orch_store::crdt::CrdtStore::open_on (feature \"crdt\") with them"
    )]
    NoUrl,
    /// The backend was not compiled in.
    #[error("{scheme:?} URLs need the feature {feature:?} of orch-store; switch it on in Cargo.toml")]
    MissingFeature {
        /// Scheme of the URL.
        scheme: &'static str,
        /// The feature to switch on.
        feature: &'static str,
    },
    /// The rest of the URL is not as the backend needs it.
    #[error("this {scheme} URL cannot be used: {reason}")]
    Invalid {
        /// Scheme of the URL.
        scheme: &'static str,
        /// Reason.
        reason: &'static str,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Schemes and the features that bring them.
const SCHEMES: [(&str, &str); 9] = [
    ("memory", ""),
    ("redb", "redb"),
    ("sqlite", "sqlite"),
    ("postgres", "postgres"),
    ("postgresql", "postgres"),
    ("etcd", "etcd"),
    ("etcds", "etcd"),
    ("redis", "redis"),
    ("rediss", "redis"),
];

fn schemes() -> String {
    SCHEMES.map(|(scheme, _)| scheme).join(", ")
}

fn unknown(scheme: &str) -> ConnectError {
    match SCHEMES.into_iter().find(|(known, _)| *known == scheme) {
        Some((scheme, feature)) => ConnectError::MissingFeature { scheme, feature },
        // Somebody may have given a password alone.
        None => ConnectError::UnknownScheme {
            scheme: match scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
                true => scheme.chars().take(20).collect(),
                false => "?".into(),
            },
        },
    }
}

/// The path of `scheme:path` and `scheme:///path`.
#[cfg(any(feature = "redb", feature = "sqlite"))]
fn directory(scheme: &'static str, url: &str) -> Result<std::path::PathBuf, ConnectError> {
    let invalid = |reason| ConnectError::Invalid { scheme, reason };
    let rest = &url[scheme.len() + 1..];
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err(invalid("there is no host: write three slashes before an absolute path")),
    };
    if path.contains(['?', '#']) {
        return Err(invalid("it takes no parameters; write %3F and %23 for ? and # in a path"));
    }
    let path = percent_encoding::percent_decode_str(path)
        .decode_utf8()
        .map_err(|_| invalid("the path is not UTF-8"))?;
    match path.is_empty() {
        true => Err(invalid("the directory is missing")),
        false => Ok(path.into_owned().into()),
    }
}
