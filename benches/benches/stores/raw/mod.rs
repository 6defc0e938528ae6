//! Raw clients of the servers, used directly for the same work as the stores: the record, its version, an
//! entry of a log that is trimmed, the number of the revision, and the guard of a claim. Each is used as an
//! expert would use it, and is called from async code as a store is: a file is written on a thread for work
//! that blocks.

mod etcd;
mod file;
mod postgres;
mod redb;
mod redis;
mod sqlite;

use std::path::Path;

use self::file::InFile;
use crate::{Raw, next};

/// Number of revisions that a log keeps, as the stores do by default. It is trimmed when there are an eighth
/// more.
const KEPT: u64 = 65_536;

pub(super) fn key(number: u64, claim: bool) -> String {
    // Claims are of keys that do not exist; other commits reuse the same ones.
    if claim { format!("claims/{number}") } else { format!("tasks/{}", number % 10_000) }
}

pub(super) async fn open(name: &str, url: &str, dir: &Path) -> Option<Box<dyn Raw>> {
    match name {
        "redb" => Some(Box::new(InFile::new(redb::Redb::open(dir)))),
        "sqlite" => Some(Box::new(InFile::new(sqlite::Sqlite::open(dir)))),
        "postgres" => Some(Box::new(postgres::Postgres::open(url).await)),
        "etcd" => Some(Box::new(etcd::Etcd::open(url).await)),
        "redis" => Some(Box::new(redis::Redis::open(url).await)),
        _ => None,
    }
}

/// Keys of this many writes.
fn keys(together: u64, claim: bool) -> Vec<String> {
    (0..together).map(|_| key(next(), claim)).collect()
}

/// New begin of a log that reaches to `head`, when it is due for trimming.
fn trimmed(oldest: u64, head: u64) -> Option<u64> {
    let surplus = (head - oldest).saturating_sub(KEPT);
    (surplus > KEPT / 8).then_some(oldest + surplus)
}
