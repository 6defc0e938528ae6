//! Conformance of every store to the one contract, each on its real server or file.

use std::time::Instant;

use crate::{
    fixtures::{self, Part},
    shell::{Error, Result, cargo, read, say},
};

/// Stores, each with the package and test that check the contract.
const STORES: [(&str, &str, &str); 7] = [
    ("memory", "orch-core", "store"),
    ("redb", "orch-store", "embedded"),
    ("sqlite", "orch-store", "sqlite"),
    ("postgres", "orch-store", "postgres"),
    ("etcd", "orch-store", "etcd"),
    ("redis", "orch-store", "redis"),
    ("crdt", "orch-store", "crdt"),
];

/// Words in the names of the tests of the contract: the suite, and durability in a crash.
const TESTS: [&str; 3] = ["conforms", "loses_nothing", "survives_kill"];

/// Runs the tests and prints a line for each store.
pub(crate) fn run(names: &[&str]) -> Result {
    let known = || STORES.iter().map(|(name, ..)| *name);
    if let Some(unknown) = names.iter().find(|name| !known().any(|known| known == **name)) {
        let known = known().collect::<Vec<_>>().join(", ");
        return Err(Error::new(format!("there is no store {unknown:?}; there are {known}")));
    }
    let wanted = |name| names.is_empty() || names.contains(&name);
    fixtures::with(&[Part::Stores], |variables| {
        let mut failed = Vec::new();
        for (name, package, test) in STORES.into_iter().filter(|(name, ..)| wanted(name)) {
            let mut command =
                cargo(&["test", "--quiet", "--package", package, "--all-features", "--test", test]);
            command.arg("--").args(TESTS).envs(variables.iter().map(|(name, value)| (name, value)));
            let begin = Instant::now();
            match read(&mut command) {
                Ok(output) => {
                    say(format!("{name:<10} conforms: {}, {:.0?}", passed(&output), begin.elapsed()));
                }
                Err(error) => {
                    say(format!("{name:<10} DOES NOT CONFORM\n{error}"));
                    failed.push(name);
                }
            }
        }
        match failed.is_empty() {
            true => Ok(()),
            false => Err(Error::new(format!("do not conform: {}", failed.join(", ")))),
        }
    })
}

/// `3 passed` from the output of the test runner.
fn passed(output: &str) -> &str {
    let result = output.lines().find_map(|line| line.strip_prefix("test result: ok. "));
    result.and_then(|rest| rest.split(';').next()).unwrap_or("passed")
}
