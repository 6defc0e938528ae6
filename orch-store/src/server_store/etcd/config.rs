//! Settings of the etcd store, and its URL.

use std::{fmt, net::IpAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use orch_core::store::StoreError;
use percent_encoding::percent_decode_str;

use super::error::{self, Cause};

/// Address and bounds of an [`EtcdStore`](super::EtcdStore).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdStoreConfig {
    /// Members of the cluster, as `host:port`. One is talked to; another one when it does not answer.
    pub members: Vec<String>,
    /// TLS settings; `None` for connections that are not encrypted.
    pub tls: Option<EtcdTls>,
    /// As whom to log in, where the cluster wants a password. It is sent encrypted, or to this machine only.
    pub login: Option<EtcdLogin>,
    /// Prefix of the store's keys in etcd. Stores with different namespaces share a cluster, and its
    /// compactions.
    pub namespace: String,
    /// The largest value in bytes. A transaction has to fit into one request, for which etcd's default is 1.5
    /// MiB (`--max-request-bytes`).
    pub max_value_bytes: usize,
    /// The most bytes of one transaction: less than `--max-request-bytes`.
    pub max_txn_bytes: usize,
    /// The most writes, and the most guards, of one transaction: less than `--max-txn-ops`, by default 128.
    pub max_txn_writes: usize,
    /// Requests that are under way at a time. One more waits.
    pub requests: NonZeroUsize,
    /// Time limit of a request on one member.
    pub timeout: Duration,
    /// Time for which a call is tried again at other members.
    pub retry_deadline: Duration,
    /// True if `compact` compacts the cluster itself, which forgets the history of everything in it. Without,
    /// only this store's watches end, and whoever runs the cluster frees its space
    /// (`--auto-compaction-retention`).
    pub compacts_cluster: bool,
}

/// Trusted authorities and client identity of connections.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EtcdTls {
    /// A file with the certificates of authorities, in PEM, instead of those that browsers trust.
    pub ca: Option<PathBuf>,
    /// Files with the certificate that the cluster knows this process by, and its private key, in PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of the cluster. Its `Debug` form shows no password.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdLogin {
    /// Its name.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl EtcdStoreConfig {
    /// A store in the cluster of these members.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            members: members.into_iter().map(Into::into).collect(),
            tls: None,
            login: None,
            namespace: "orch".into(),
            max_value_bytes: 1 << 20,
            max_txn_bytes: 1_400_000,
            max_txn_writes: 127,
            requests: const { NonZeroUsize::new(1024).expect("not zero") },
            timeout: Duration::from_secs(5),
            retry_deadline: Duration::from_secs(10),
            compacts_cluster: true,
        }
    }

    /// Reads `etcd://user:password@host:port,host:port/namespace`, and `etcds://` for encrypted connections,
    /// with the parameters `ca`, `cert` and `key`: the files of [`EtcdTls`]. The port is 2379 and the
    /// namespace `orch` where they are missing; without a user there is no login.
    ///
    /// # Errors
    /// [`StoreError::Backend`] names what cannot be understood, and never shows the URL.
    pub fn from_url(url: &str) -> Result<Self, StoreError> {
        let invalid = |reason| error::backend("reading the URL", false, Cause::Url(reason));
        let not_text = |_| invalid("it is not UTF-8");
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (rest, mut tls) = match (base.strip_prefix("etcd://"), base.strip_prefix("etcds://")) {
            (Some(rest), _) => (rest, None),
            (_, Some(rest)) => (rest, Some(EtcdTls::default())),
            _ => return Err(invalid("it begins with neither etcd:// nor etcds://")),
        };
        let (mut cert, mut key) = (None, None);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let file = PathBuf::from(percent_decode_str(value).decode_utf8().map_err(not_text)?.into_owned());
            match (name, &mut tls) {
                ("ca", Some(tls)) => tls.ca = Some(file),
                ("cert", Some(_)) => cert = Some(file),
                ("key", Some(_)) => key = Some(file),
                _ => return Err(invalid("its parameters are ca, cert and key, and only with etcds://")),
            }
        }
        match (cert, key, &mut tls) {
            (Some(cert), Some(key), Some(tls)) => tls.identity = Some((cert, key)),
            (None, None, _) => {}
            _ => return Err(invalid("cert and key belong together")),
        }
        let (members, namespace) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, members) = match members.rsplit_once('@') {
            None => (None, members),
            Some((login, members)) => {
                let (user, password) = login
                    .split_once(':')
                    .ok_or_else(|| invalid("a password is missing after the user's name"))?;
                let text = |text| Ok(percent_decode_str(text).decode_utf8().map_err(not_text)?.into_owned());
                (Some(EtcdLogin { user: text(user)?, password: text(password)? }), members)
            }
        };
        let members = members.split(',').filter(|member| !member.is_empty()).map(|member| {
            let has_port = member.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
            if has_port { member.to_owned() } else { format!("{member}:2379") }
        });
        let mut config = Self { tls, login, ..Self::new(members) };
        let namespace = percent_decode_str(namespace).decode_utf8().map_err(not_text)?;
        if !namespace.is_empty() {
            config.namespace = namespace.into_owned();
        }
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot work, and a password that anybody could read on its way.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let refuse = |reason| Err(error::backend("reading the configuration", false, Cause::Url(reason)));
        if self.members.is_empty() {
            return refuse("it names no member");
        }
        if self.login.is_some() && self.tls.is_none() && !self.members.iter().all(|member| is_here(member)) {
            return refuse(
                "a password would go over the network for anybody to read; use etcds://, or a member on this machine",
            );
        }
        Ok(())
    }
}

/// True if `host:port` is on this machine.
fn is_here(member: &str) -> bool {
    let host = member.rsplit_once(':').map_or(member, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

impl fmt::Debug for EtcdLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLogin").field("user", &self.user).finish_non_exhaustive()
    }
}
