//! Shared parts of tests: the suites of file stores and of server stores, and helpers.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    clippy::unwrap_used,
    reason = "each test uses a part of it"
)]

#[cfg(feature = "etcd")]
pub(crate) mod etcd_server;
pub(crate) mod file_store;
#[cfg(feature = "redis")]
pub(crate) mod redis_server;
pub(crate) mod server_store;
#[cfg(target_os = "linux")]
pub(crate) mod small_disk;

use std::{
    fs::File,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use orch_core::store::{Key, Txn, Write};

/// Environment variable set by `cargo xtask test`.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run these tests by `cargo xtask test`, which starts what they need")
    })
}

/// A name that no other test and no earlier run has: small letters, digits and `_`.
pub(crate) fn unused_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("t{:x}_{}_{next}", time.as_micros(), std::process::id())
}

/// A turn at a server that is one, whoever runs tests against it: some need it for themselves, because they
/// kill it or change its settings. Ends when it is dropped.
pub(crate) async fn turn(server: &str, alone: bool) -> File {
    let name = server.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let lock = File::create(std::env::temp_dir().join(format!("orch-test-turn-{name}"))).unwrap();
    let locked = tokio::task::spawn_blocking(move || {
        let locked = if alone { lock.lock() } else { lock.lock_shared() };
        locked.unwrap();
        lock
    });
    locked.await.unwrap()
}

/// Runs a command of the fixtures, such as one that restarts a server.
pub(crate) async fn run(command: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]);
    let output = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub(crate) fn put(at: &str, value: &str) -> Txn {
    Txn::of(vec![Write::put(key(at), value.to_owned())])
}

/// An error with its causes, as a log shows it.
pub(crate) fn full(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(|error| format!("{error}; ")).collect()
}
