//! Lives of whole clusters of orchestrators and agents in virtual time. `orch-sim engine soak` lives many more.

use orch_sim::engine::{Scenario, run};

#[test]
fn clusters_keep_their_promises_through_faults() {
    let mut succeeded = 0;
    for seed in 0..60 {
        match run(Scenario::new(seed)) {
            Ok(summary) => succeeded += summary.succeeded,
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    assert!(succeeded > 100, "most tasks of most lives succeed; {succeeded} did");
}
