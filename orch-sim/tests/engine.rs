//! Runs of whole clusters of orchestrators and agents in virtual time. `orch-sim engine soak` runs many more.

use std::time::Duration;

use orch_sim::engine::{Losses, Scenario, count_losses, run};

#[test]
fn clusters_keep_their_promises_through_faults() {
    let mut succeeded = 0;
    for seed in 0..60 {
        match run(Scenario::new(seed)) {
            Ok(summary) => succeeded += summary.succeeded,
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    assert!(succeeded > 100, "most tasks of most runs succeed; {succeeded} did");
}

#[test]
fn lost_messages_and_short_pauses_lose_no_node() {
    let usual = Losses {
        seed: 7,
        nodes: 20,
        members: 1,
        lost_per_thousand: 50,
        pause: Duration::from_secs(2),
        time: Duration::from_secs(3600),
    };
    assert_eq!(count_losses(usual).unwrap(), 0, "in twenty hours of a node");
    let connected = Losses { members: 3, ..usual };
    assert_eq!(count_losses(connected).unwrap(), 0, "two of three members get the heartbeats of the third");
    let long = Losses { pause: Duration::from_secs(10), time: Duration::from_secs(300), ..usual };
    assert!(count_losses(long).unwrap() >= 20, "longer pauses than the timeout are noticed");
}
