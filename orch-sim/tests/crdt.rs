//! The signed store in simulated groups: crashes, partitions, clocks that are off, and authors that attack.

use std::{fs, path::PathBuf, time::Duration};

use orch_sim::crdt::{Scenario, fuzz, run};
use orch_store::crdt::Message;
use proptest::prelude::*;

fn seeds() -> u64 {
    std::env::var("ORCH_CRDT_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12)
}

fn all(scenario: Scenario) -> Vec<orch_sim::crdt::Report> {
    let run = |seed| run(seed, scenario).unwrap_or_else(|why| panic!("seed {seed}, {scenario:?}: {why}"));
    (0..seeds()).map(run).collect()
}

#[test]
fn correct_replicas_agree_whatever_one_byzantine_replica_does() {
    let reports = all(Scenario { nodes: 4, byzantine: 1, faults_until: Duration::from_secs(15) });
    assert!(
        reports.iter().any(|report| report.evidence > 0),
        "some byzantine must have been caught: {reports:?}"
    );
    assert!(reports.iter().all(|report| report.answered > 10), "{reports:?}");
}

#[test]
fn correct_replicas_agree_whatever_two_byzantine_replicas_do() {
    let reports = all(Scenario { nodes: 7, byzantine: 2, faults_until: Duration::from_secs(6) });
    assert!(reports.iter().all(|report| report.answered > 10), "{reports:?}");
}

#[test]
fn replicas_agree_after_crashes_and_partitions() {
    let reports = all(Scenario { nodes: 3, byzantine: 0, faults_until: Duration::from_secs(15) });
    assert!(reports.iter().all(|report| report.evidence == 0 && report.answered > 10), "{reports:?}");
}

#[test]
fn a_run_follows_from_its_seed() {
    let scenario = Scenario { nodes: 4, byzantine: 1, faults_until: Duration::from_secs(3) };
    assert_eq!(run(7, scenario), run(7, scenario));
}

/// The seeds of the fuzz target are messages of this version. With ORCH_RECORD_SEEDS set they are written
/// anew.
#[test]
fn seeds_of_the_fuzz_target_are_valid() {
    let directory: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "..", "fuzz", "seeds", "crdt_message"].iter().collect();
    for (number, bytes) in fuzz::seeds().into_iter().enumerate() {
        if std::env::var_os("ORCH_RECORD_SEEDS").is_some() {
            fs::create_dir_all(&directory).expect("the directory can be made");
            fs::write(directory.join(format!("message-{number}")), &bytes).expect("the seed can be written");
        }
        assert!(Message::decode(bytes.into()).is_ok(), "seed {number}");
    }
    let kept = fs::read_dir(&directory).expect("the target has seeds");
    for file in kept {
        let bytes = fs::read(file.expect("the directory can be read").path()).expect("it can be read");
        fuzz::message(&bytes);
        assert!(Message::decode(bytes.into()).is_ok(), "the format has changed: record the seeds anew");
    }
}

proptest! {
    /// Any bytes, and messages with a few bytes changed.
    #[test]
    fn decoding_survives_everything(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        fuzz::message(&bytes);
        for mut seed in fuzz::seeds() {
            for (at, byte) in &changes {
                let at = at.index(seed.len());
                seed[at] = *byte;
            }
            fuzz::message(&seed);
        }
    }
}
