//! Simulated groups: many runs, one run, and proof that the simulation would notice mistakes.

use crate::shell::{Result, cargo, run, say, target};

const BUILD: [&str; 9] =
    ["run", "--quiet", "--release", "--package", "orch-sim", "--features", "pbft", "--bin", "orch-sim"];

/// Runs the program of `orch-sim` with these arguments, in a build whose replicas can make mistakes on purpose where they are
/// about one.
pub(crate) fn run_with(args: &[&str]) -> Result {
    let mut command = cargo(&BUILD);
    if args.contains(&"faults") || args.contains(&"--fault") {
        command
            .env("RUSTFLAGS", "--cfg orch_seeded_faults")
            .env("CARGO_TARGET_DIR", target().join("seeded-faults"));
    }
    run(command.arg("--").args(args))
}

/// Makes known mistakes on purpose.
pub(crate) fn seeded_faults(args: &[&str]) -> Result {
    run_with(&[&["faults"], args].concat())
}

/// What a change has to pass.
pub(crate) fn check() -> Result {
    say("\nsimulated groups of four and seven replicas");
    run_with(&["soak", "--seeds", "2000"])?;
    run_with(&["twice", "--seeds", "100"])?;
    run_with(&["twins", "--rounds", "2", "--seeds", "10000"])?;
    say("\nmistakes made on purpose");
    seeded_faults(&[])
}
