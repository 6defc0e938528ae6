//! Commands of the simulations: many runs, one run, seeded faults, and faults of real programs.

use crate::shell::{Result, cargo, run, say, target};

/// Runs the program that simulates groups of replicas with these arguments.
pub(crate) fn run_with(args: &[&str]) -> Result {
    run_program("pbft", "orch-sim", args)
}

/// The same with the program that simulates whole clusters, in a build that can make mistakes on purpose
/// where they are about one.
pub(crate) fn run_engine_with(args: &[&str]) -> Result {
    run_program("engine", "orch-sim-engine", args)
}

/// Kills the real programs of the manager and worker style at random.
pub(crate) fn soak_binaries(args: &[&str]) -> Result {
    let build = ["test", "--quiet", "--package", "manager-worker", "--test", "soak", "--"];
    run(cargo(&build).args(args))
}

fn run_program(feature: &str, program: &str, args: &[&str]) -> Result {
    let build = ["run", "--quiet", "--release", "--package", "orch-sim", "--features", feature];
    let mut command = cargo(&build);
    command.args(["--bin", program]);
    if feature == "engine" && (args.contains(&"faults") || args.contains(&"--fault")) {
        command
            .env("RUSTFLAGS", "--cfg orch_seeded_faults")
            .env("CARGO_TARGET_DIR", target().join("seeded-faults"));
    }
    run(command.arg("--").args(args))
}

/// Runs the simulations with seeded faults, which they must find.
pub(crate) fn seeded_faults(args: &[&str]) -> Result {
    // Each of the two programs knows the names of its own faults.
    match args {
        [] => {
            run_with(&["faults"])?;
            run_engine_with(&["faults"])
        }
        ["engine", rest @ ..] => run_engine_with(&[&["faults"], rest].concat()),
        rest => run_with(&[&["faults"], rest].concat()),
    }
}

/// Simulations that a change has to pass.
pub(crate) fn check() -> Result {
    say("\nsimulated groups of four and seven replicas");
    run_with(&["soak", "--seeds", "2000"])?;
    run_with(&["twice", "--seeds", "100"])?;
    run_with(&["twins", "--rounds", "2", "--seeds", "10000"])?;
    say("\nlives of whole clusters");
    run_engine_with(&["soak", "--seeds", "2000"])?;
    say("\nmistakes made on purpose");
    seeded_faults(&[])
}
