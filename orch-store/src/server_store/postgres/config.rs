//! Settings of the PostgreSQL store, and its URL.

use std::{
    fmt,
    num::{NonZeroU64, NonZeroUsize},
    path::PathBuf,
    time::Duration,
};

use orch_core::store::StoreError;
use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode, TargetSessionAttrs};

use super::{
    error::{self, Cause},
    tls::{Roots, Trust},
};

/// Address and bounds of a [`PostgresStore`](super::PostgresStore).
#[derive(Clone, Debug)]
pub struct PostgresStoreConfig {
    /// The database, and how to log in there: from a URL.
    pub server: PostgresServer,
    /// The schema that holds the store's tables, made when it is missing: small letters, digits and `_`, at
    /// most 48 of them. Stores with different schemas share a database and nothing else.
    pub schema: String,
    /// Connections for readers, each of which serves many at a time. Writing and listening have one each of
    /// their own.
    pub readers: NonZeroUsize,
    /// Revisions that are kept at least for watches. Some eighth more may be there: the log is trimmed in
    /// steps.
    pub history_revisions: NonZeroU64,
    /// Bytes of keys and values that are kept at most for watches, also where that is fewer revisions. The
    /// log is measured now and then: each process that writes may add an eighth.
    pub history_bytes: u64,
    /// The largest value in bytes.
    pub max_value_bytes: usize,
    /// The most writes, and the most guards, of one transaction.
    pub max_txn_writes: usize,
    /// Bytes of transactions that wait for the server. A `commit` beyond waits for permits. Each counts for
    /// at least 1 KiB.
    pub queue_bytes: usize,
    /// Time limit of one answer of the server: of a commit, of the start of a page, and of each further row.
    /// Large transactions have longer, by a second for each 4 MiB. Of a commit that takes longer nobody knows
    /// the outcome. Who waits for a lock is refused after two fifths of this, and nothing has happened then;
    /// a page that takes twelve times this is given up by the server.
    pub timeout: Duration,
    /// Time for which a call tries to connect again after the connection was lost.
    pub retry_deadline: Duration,
    /// Watches poll at this interval also without notifications. A lost notification costs them
    /// this much.
    pub poll_interval: Duration,
}

/// Address, database, login, and whom to trust. Its `Debug` form shows no password.
#[derive(Clone)]
pub struct PostgresServer {
    pub(super) config: tokio_postgres::Config,
    pub(super) trust: Trust,
}

impl PostgresStoreConfig {
    /// Reads `postgres://user:password@host:port/database?parameter=value`, with the parameters of libpq that
    /// `tokio-postgres` knows, and:
    ///
    /// - `schema`: see [`PostgresStoreConfig::schema`]; `orch` by default;
    /// - `sslmode`: `disable`, `prefer` (the default: TLS if the server has it), `require` (TLS, with
    ///   anybody), `verify-ca` (whose certificate a known authority has signed) or `verify-full` (and is for
    ///   this host);
    /// - `sslrootcert`: a file with the certificates of authorities, in PEM, instead of those that browsers
    ///   trust. With it, `require` means `verify-ca`, as in libpq.
    ///
    /// # Errors
    /// [`StoreError::Backend`] names what cannot be understood, and never shows the URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let invalid = |reason: &str| error::backend("reading the URL", false, Cause::Url(reason.into()));
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut schema, mut mode, mut roots) = (String::from("orch"), None, None);
        let mut others = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = percent_decode_str(value).decode_utf8().map_err(|_| invalid("it is not UTF-8"))?;
            match name {
                "schema" => schema = value.into_owned(),
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = Some(PathBuf::from(value.into_owned())),
                _ => others.push(parameter),
            }
        }
        let mut server: tokio_postgres::Config = format!("{base}?{}", others.join("&"))
            .parse()
            .map_err(|source| error::backend("reading the URL", false, Cause::Parameters { source }))?;
        let roots = roots.map_or(Roots::Browsers, Roots::File);
        let (mode, trust) = match mode.as_deref() {
            Some("disable") => (SslMode::Disable, Trust::Anybody),
            None | Some("allow" | "prefer") => (SslMode::Prefer, Trust::Anybody),
            Some("require") if roots == Roots::Browsers => (SslMode::Require, Trust::Anybody),
            Some("require" | "verify-ca") => (SslMode::Require, Trust::Authority(roots)),
            Some("verify-full") => (SslMode::Require, Trust::Host(roots)),
            Some(_) => {
                return Err(invalid("sslmode is disable, prefer, require, verify-ca or verify-full"));
            }
        };
        server.ssl_mode(mode).target_session_attrs(TargetSessionAttrs::ReadWrite);
        if server.get_application_name().is_none() {
            server.application_name("orch");
        }
        if server.get_connect_timeout().is_none() {
            server.connect_timeout(Duration::from_secs(5));
        }
        // A server that vanished without a word is noticed after about half a minute.
        server.keepalives_idle(Duration::from_secs(15)).keepalives_interval(Duration::from_secs(5));
        server.keepalives_retries(3).tcp_user_timeout(Duration::from_secs(30));
        let config = Self {
            server: PostgresServer { config: server, trust },
            schema,
            readers: const { NonZeroUsize::new(4).expect("not zero") },
            history_revisions: const { NonZeroU64::new(65_536).expect("not zero") },
            max_value_bytes: 4 << 20,
            max_txn_writes: 65_536,
            history_bytes: 1 << 30,
            queue_bytes: 16 << 20,
            timeout: Duration::from_secs(5),
            retry_deadline: Duration::from_secs(10),
            poll_interval: Duration::from_secs(1),
        };
        config.check()?;
        Ok(config)
    }

    /// The schema is a part of statements.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let readable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        match (1..=48).contains(&self.schema.len()) && self.schema.chars().all(readable) {
            true => Ok(()),
            false => {
                let reason = "the schema is up to 48 small letters, digits and _".into();
                Err(error::backend("reading the configuration", false, Cause::Url(reason)))
            }
        }
    }
}

impl PostgresServer {
    /// A configuration for each host, in the order of the URL: a host that takes connections and says nothing
    /// must not keep others from being tried.
    pub(super) fn hosts(&self) -> Vec<tokio_postgres::Config> {
        let all = &self.config;
        let (names, addresses) = (all.get_hosts(), all.get_hostaddrs());
        let count = names.len().max(addresses.len());
        let in_order = all.get_load_balance_hosts() == LoadBalanceHosts::Disable;
        let ports_fit = all.get_ports().len() <= 1 || all.get_ports().len() == count;
        if count <= 1 || !in_order || !ports_fit || !names.is_empty() && names.len() != count {
            return vec![all.clone()];
        }
        let one = |number: usize| {
            let mut one = self.without_hosts();
            match names.get(number) {
                Some(Host::Tcp(name)) => drop(one.host(name)),
                #[cfg(unix)]
                Some(Host::Unix(path)) => drop(one.host_path(path)),
                None => {}
            }
            addresses.get(number).map(|address| one.hostaddr(*address));
            all.get_ports().get(number).or(all.get_ports().first()).map(|port| one.port(*port));
            one
        };
        (0..count).map(one).collect()
    }

    /// The number of hosts that the URL names.
    pub(super) fn count(&self) -> usize {
        self.config.get_hosts().len().max(self.config.get_hostaddrs().len())
    }

    fn without_hosts(&self) -> tokio_postgres::Config {
        let (all, mut config) = (&self.config, tokio_postgres::Config::new());
        all.get_user().map(|user| config.user(user));
        all.get_password().map(|password| config.password(password));
        all.get_dbname().map(|name| config.dbname(name));
        all.get_options().map(|options| config.options(options));
        all.get_application_name().map(|name| config.application_name(name));
        all.get_connect_timeout().map(|timeout| config.connect_timeout(*timeout));
        all.get_tcp_user_timeout().map(|timeout| config.tcp_user_timeout(*timeout));
        all.get_keepalives_interval().map(|interval| config.keepalives_interval(interval));
        all.get_keepalives_retries().map(|retries| config.keepalives_retries(retries));
        config
            .ssl_mode(all.get_ssl_mode())
            .ssl_negotiation(all.get_ssl_negotiation())
            .keepalives(all.get_keepalives())
            .keepalives_idle(all.get_keepalives_idle())
            .target_session_attrs(all.get_target_session_attrs())
            .channel_binding(all.get_channel_binding());
        config
    }
}

impl fmt::Debug for PostgresServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresServer")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}
