//! Plays the cases of `src/pbft/cases`. With ORCH_RECORD_CASES set it writes down what comes out instead:
//! read the difference.

use orch_sim::pbft::script::{CASES, play, record};

#[test]
fn every_case_comes_out_as_written_down() {
    let mut mismatches = String::new();
    for (name, text) in CASES {
        if std::env::var_os("ORCH_RECORD_CASES").is_some() {
            let path = format!("{}/src/pbft/cases/{name}.txt", env!("CARGO_MANIFEST_DIR"));
            std::fs::write(path, record(text)).expect("the case can be written");
        } else if let Err(mismatch) = play(text, None) {
            mismatches += &format!(
                "{name}: after\n{}came\n{}and not\n{}\n",
                mismatch.commands, mismatch.got, mismatch.expected
            );
        }
    }
    assert!(mismatches.is_empty(), "{mismatches}");
}
