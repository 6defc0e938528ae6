//! Commands of the project: the gate, the fixes, the tests and their fixtures.

use std::process::ExitCode;

mod conformance;
mod fixtures;
mod fuzz;
mod gate;
mod licences;
mod shell;
mod simulation;
mod test;
mod tidy;
mod toolchains;

const USAGE: &str = "\
usage: cargo xtask <command>

  gate                              check everything that can be checked without running tests; edits nothing
  fix                               format, and apply what clippy can repair by itself
  api                               write the lists of public items that the gate compares with, in xtask/api
  tools                             install what the gate uses where it is there: the oldest Rust that is supported, and
                                    cargo-public-api (in target/tools)
  test [--without PART] [-- ARGS]   run all tests with what they need, and stop it afterwards; ARGS go to the test
                                    runner; PART is `browser`, `docker`, `stores` or `simulation`, and the option may be
                                    repeated
  conformance [STORE]               hold every store, or one, against the contract of stores, each on its real server;
                                    prints a line for each
  soak --seeds N [--first SEED]     simulate groups of replicas with faults and Byzantine replicas, a minute for each seed and size;
                                    ends with one line of totals
  soak engine --seeds N             simulate whole clusters of orchestrators and agents; `sim engine replay --seed N`
  soak binaries --minutes N         kill and stop a real manager and workers at random, and count what tasks did; also
                                    `--seed N`, `--workers N`
  sim ARGS                          run the simulator: `replay --seed N --replicas N`, `twins`, `twice`
  seeded-faults [engine] [--fault NAME]
                                    make known mistakes on purpose; fails when the simulation does not notice one
  fuzz [--seconds N] [TARGET]       fuzz each target for N seconds (60), with nightly Rust and cargo-fuzz; ends with a line
                                    for each, or with the command that shows a crash again
  docker up                         start a Docker engine and two registries for tests, and keep them
  docker down                       stop them and remove what they left
  stores up                         start the servers of stores for tests, and keep them
  stores down                       stop them and remove what they left
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["gate"] => gate::check(),
        ["fix"] => gate::fix(),
        ["api"] => toolchains::write_api(),
        ["tools"] => toolchains::install(),
        ["test", rest @ ..] => test::Options::read(rest).and_then(|options| test::run(&options)),
        ["soak", "engine", rest @ ..] => simulation::run_engine_with(&[&["soak"], rest].concat()),
        ["soak", "binaries", rest @ ..] => simulation::soak_binaries(rest),
        ["sim", "engine", rest @ ..] => simulation::run_engine_with(rest),
        ["soak", rest @ ..] => simulation::run_with(&[&["soak"], rest].concat()),
        ["sim", rest @ ..] => simulation::run_with(rest),
        ["seeded-faults", rest @ ..] => simulation::seeded_faults(rest),
        ["fuzz", rest @ ..] => fuzz::Options::read(rest).and_then(|options| fuzz::fuzz(&options)),
        ["conformance", rest @ ..] => conformance::run(rest),
        ["docker", "up"] => fixtures::up(fixtures::Part::Docker),
        ["docker", "down"] => fixtures::down(fixtures::Part::Docker),
        ["stores", "up"] => fixtures::up(fixtures::Part::Stores),
        ["stores", "down"] => fixtures::down(fixtures::Part::Stores),
        ["help" | "--help" | "-h"] => {
            shell::say(USAGE);
            Ok(())
        }
        _ => Err(shell::Error::new(format!("no such command: {}\n\n{USAGE}", words.join(" ")))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
