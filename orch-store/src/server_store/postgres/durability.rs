//! Durability that a server's settings allow to declare.

use orch_core::store::Durability;
use tokio_postgres::{Client, Error};

/// Settings that decide how durable an acknowledged commit of a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    fsync: bool,
    synchronous_commit: String,
    /// `synchronous_standby_names` is not empty.
    standbys: bool,
}

impl Settings {
    /// Asks the server for those of this session.
    pub(super) async fn of(client: &Client) -> Result<Self, Error> {
        let ask = "SELECT current_setting('fsync') = 'on', current_setting('synchronous_commit'), \
            current_setting('synchronous_standby_names') <> ''";
        let row = client.query_one(ask, &[]).await?;
        Ok(Self { fsync: row.try_get(0)?, synchronous_commit: row.try_get(1)?, standbys: row.try_get(2)? })
    }

    /// An answered commit is on the disk of a standby too.
    pub(super) fn replicated(&self) -> bool {
        let waits = matches!(&*self.synchronous_commit, "on" | "remote_apply");
        self.fsync && self.standbys && waits
    }

    /// Durability of an answered commit, where the URL names so many hosts. With several, a standby takes
    /// over for a primary that is lost: what only the primary had on its disk is lost as well then.
    pub(super) fn durability(&self, hosts: usize) -> Durability {
        let synced = self.fsync && self.synchronous_commit != "off";
        match (self.replicated(), synced && hosts <= 1) {
            (true, _) => Durability::Replicated,
            (false, true) => Durability::Sync,
            (false, false) => Durability::Group,
        }
    }
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (fsync, standbys) =
            (if self.fsync { "on" } else { "off" }, if self.standbys { "set" } else { "empty" });
        write!(
            f,
            "fsync {fsync}, synchronous_commit {}, synchronous_standby_names {standbys}",
            self.synchronous_commit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_standby_may_lack_is_not_declared_as_synced_where_it_may_take_over() {
        let durability = |fsync, synchronous_commit: &str, standbys, hosts| {
            let synchronous_commit = synchronous_commit.to_owned();
            Settings { fsync, synchronous_commit, standbys }.durability(hosts)
        };
        for (commit, standbys, one, two) in [
            ("on", false, Durability::Sync, Durability::Group),
            ("on", true, Durability::Replicated, Durability::Replicated),
            ("remote_apply", true, Durability::Replicated, Durability::Replicated),
            ("remote_apply", false, Durability::Sync, Durability::Group),
            ("remote_write", true, Durability::Sync, Durability::Group),
            ("local", true, Durability::Sync, Durability::Group),
            ("off", true, Durability::Group, Durability::Group),
        ] {
            let found = (durability(true, commit, standbys, 1), durability(true, commit, standbys, 2));
            assert_eq!(found, (one, two), "{commit}, standbys {standbys}");
            assert_eq!(durability(false, commit, standbys, 1), Durability::Group, "{commit} without fsync");
        }
    }
}
