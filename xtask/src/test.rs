//! All tests, with what they need.

use crate::{
    fixtures,
    shell::{Error, Result, cargo, has, say},
    simulation,
};

/// What the command line asks for.
#[derive(Debug, Default)]
pub(crate) struct Options {
    without_docker: bool,
    without_simulation: bool,
    runner_args: Vec<String>,
}

impl Options {
    pub(crate) fn read(words: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--without" => match words.next() {
                    Some(&"docker") => options.without_docker = true,
                    Some(&"simulation") => options.without_simulation = true,
                    part => {
                        let what = "only docker and simulation can be left out";
                        return Err(Error::new(format!("{what}, not {part:?}")));
                    }
                },
                "--" => options.runner_args.extend(words.by_ref().map(ToString::to_string)),
                word => return Err(Error::new(format!("unknown argument {word:?}; see cargo xtask help"))),
            }
        }
        Ok(options)
    }
}

/// Runs the tests and says at the end what was left out.
pub(crate) fn run(options: &Options) -> Result {
    let done = match options.without_docker {
        true => run_tests(options, &[]),
        false => fixtures::with(|variables| run_tests(options, variables)),
    };
    if options.without_docker {
        say(
            "\nleft out by --without docker: the integration tests of orch-docker, and of manager-worker on containers",
        );
    }
    if options.without_simulation {
        say(
            "\nleft out by --without simulation: the simulated groups of replicas, and mistakes made on purpose",
        );
    }
    let done = match done {
        Ok(()) if !options.without_simulation => simulation::check(),
        done => done,
    };
    if done.is_ok() {
        say("\nall tests that were run have passed");
    }
    done
}

fn run_tests(options: &Options, variables: &[(&'static str, String)]) -> Result {
    let mut commands = match (has("cargo-nextest"), options.without_docker) {
        (true, false) => vec![cargo(&["nextest", "run", "--no-fail-fast", "--workspace", "--all-features"])],
        (true, true) => {
            let filter = "not (kind(test) and (package(orch-docker) or binary(docker)))";
            vec![cargo(&["nextest", "run", "--no-fail-fast", "--workspace", "--all-features", "-E", filter])]
        }
        (false, false) => {
            vec![cargo(&[
                "test",
                "--no-fail-fast",
                "--workspace",
                "--all-features",
                "--lib",
                "--bins",
                "--tests",
            ])]
        }
        (false, true) => {
            let parts = ["--all-features", "--lib", "--bins", "--tests"];
            let others = ["test", "--workspace", "--exclude", "orch-docker", "--exclude", "manager-worker"];
            vec![
                cargo(&[&others[..], &parts].concat()),
                cargo(&["test", "--package", "orch-docker", "--all-features", "--lib"]),
                cargo(&["test", "--package", "manager-worker", "--lib", "--bins", "--test", "style"]),
            ]
        }
    };
    for command in &mut commands {
        command.args(&options.runner_args);
    }
    commands.push(cargo(&["test", "--workspace", "--all-features", "--doc"]));
    for mut command in commands {
        crate::shell::run(command.envs(variables.iter().map(|(name, value)| (name, value))))?;
    }
    Ok(())
}
