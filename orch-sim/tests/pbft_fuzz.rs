//! Runs the seeds of the fuzz targets, and what the fuzzers found and was mended, as the targets do. With
//! ORCH_RECORD_SEEDS set it writes the seeds anew.

use std::{collections::BTreeMap, fs, path::PathBuf};

use orch_consensus::pbft::Message;
use orch_sim::pbft::fuzz;

fn directory(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "fuzz", "seeds", target].iter().collect()
}

/// All inputs of a target, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(directory(target)).expect("the target has seeds");
    let read = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path()).expect("the seed can be read");
        (entry.file_name().to_string_lossy().into_owned(), bytes)
    };
    let mut inputs: Vec<_> = files.map(|entry| read(entry.expect("the directory can be read"))).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{target} has seeds");
    inputs
}

/// Says which input it was when one fails.
fn run(target: &str, entry: fn(&[u8])) {
    for (name, bytes) in inputs(target) {
        let done = std::panic::catch_unwind(|| entry(&bytes));
        assert!(done.is_ok(), "that was fuzz/seeds/{target}/{name}");
    }
}

#[test]
fn messages() {
    run("pbft_message", fuzz::message);
    let there: BTreeMap<_, _> = inputs("pbft_message").into_iter().collect();
    for (_, name, _) in fuzz::seeds().into_iter().filter(|(target, ..)| *target == "pbft_message") {
        let seed = there.get(&name).map(|bytes| Message::from_wire(bytes.clone().into()));
        assert!(matches!(seed, Some(Ok(_))), "{name} is there, as a message of this version");
    }
}

#[test]
fn logs() {
    run("pbft_wal", fuzz::wal);
}

#[test]
fn groups() {
    run("pbft_step", fuzz::step);
}

#[test]
fn seeds_are_valid() {
    for (target, name, bytes) in fuzz::seeds() {
        if std::env::var_os("ORCH_RECORD_SEEDS").is_some() {
            fs::create_dir_all(directory(target)).expect("the directory can be made");
            fs::write(directory(target).join(&name), &bytes).expect("the seed can be written");
        }
        match target {
            "pbft_message" => assert!(Message::from_wire(bytes.into()).is_ok(), "{name} is a message"),
            "pbft_wal" => fuzz::wal(&bytes),
            _ => fuzz::step(&bytes),
        }
    }
}
