//! The clients that stores are made of, used by hand for the same work: the record, its version, an entry of a log, the
//! number of the revision, and the guard of a claim.

mod postgres;
mod redis;
mod sqlite;

use std::path::Path;

use crate::{Raw, next};

pub(super) fn key(number: u64, claim: bool) -> String {
    // Claims are of keys that are not there; other commits come back to the same ones.
    if claim { format!("claims/{number}") } else { format!("tasks/{}", number % 10_000) }
}

pub(super) async fn open(name: &str, url: &str, dir: &Path) -> Option<Box<dyn Raw>> {
    match name {
        "sqlite" => Some(Box::new(sqlite::Sqlite::open(dir))),
        "postgres" => Some(Box::new(postgres::Postgres::open(url).await)),
        "redis" => Some(Box::new(redis::Redis::open(url).await)),
        _ => None,
    }
}

/// The next number, as databases count.
fn number() -> i64 {
    i64::try_from(next()).expect("not so many")
}
