//! What tests against servers share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of it")]

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use orch_core::store::{Key, Txn, Write};

/// What `cargo xtask test` tells its tests.
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
