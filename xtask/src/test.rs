//! Runner of all tests, with their fixtures.

use crate::{
    fixtures::{self, Part},
    shell::{Context, Error, Result, cargo, has, root, say},
    simulation,
};

/// Options of the command line.
#[derive(Debug, Default)]
pub(crate) struct Options {
    without_browser: bool,
    without_docker: bool,
    without_stores: bool,
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
                    Some(&"browser") => options.without_browser = true,
                    Some(&"docker") => options.without_docker = true,
                    Some(&"stores") => options.without_stores = true,
                    Some(&"simulation") => options.without_simulation = true,
                    part => {
                        let what = "only browser, docker, stores and simulation can be left out";
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

/// Runs the tests and prints at the end which were skipped.
pub(crate) fn run(options: &Options) -> Result {
    let mut parts = Vec::new();
    if !options.without_docker {
        parts.push(Part::Docker);
    }
    if !options.without_stores {
        parts.push(Part::Stores);
    }
    if !options.without_browser {
        parts.push(Part::Browser);
    }
    let done = fixtures::with(&parts, |variables| run_tests(options, variables));
    if options.without_browser {
        say("\nleft out by --without browser: the tests of pages");
    }
    if options.without_docker {
        say(
            "\nleft out by --without docker: the integration tests of orch-docker, and of manager-worker on containers",
        );
    }
    if options.without_stores {
        say("\nleft out by --without stores: the tests of stores against their servers");
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
    let mut commands = if has("cargo-nextest") {
        let mut left_out = Vec::new();
        if options.without_browser {
            left_out.push("binary(browser)".to_owned());
        }
        if options.without_docker {
            left_out.push("package(orch-docker) or binary(docker)".to_owned());
        }
        if options.without_stores {
            left_out.extend(SERVED.map(|test| format!("package(orch-store) and binary({test})")));
        }
        let mut command = cargo(&["nextest", "run", "--no-fail-fast", "--workspace", "--all-features"]);
        if !left_out.is_empty() {
            let left_out = left_out.iter().map(|part| format!("({part})")).collect::<Vec<_>>().join(" or ");
            command.args(["-E", &format!("not (kind(test) and ({left_out}))")]);
        }
        vec![command]
    } else {
        let mut all =
            vec!["test", "--no-fail-fast", "--workspace", "--all-features", "--lib", "--bins", "--tests"];
        let mut more = Vec::new();
        if options.without_docker {
            all.extend(["--exclude", "orch-docker"]);
            more.push(cargo(&["test", "--package", "orch-docker", "--all-features", "--lib"]));
        }
        if options.without_docker || options.without_browser {
            all.extend(["--exclude", "manager-worker"]);
            let left_out =
                [(options.without_docker, "docker"), (options.without_browser, "browser"), (true, "soak")];
            let left_out: Vec<&str> =
                left_out.iter().filter(|(is_out, _)| *is_out).map(|(_, test)| *test).collect();
            let mut others = cargo(&["test", "--package", "manager-worker", "--lib", "--bins"]);
            for test in tests_of("examples/manager-worker", &left_out)? {
                others.args(["--test", &test]);
            }
            more.push(others);
        }
        if options.without_stores {
            all.extend(["--exclude", "orch-store"]);
            let mut others = cargo(&["test", "--package", "orch-store", "--all-features", "--lib"]);
            for test in tests_of("orch-store", &SERVED)? {
                others.args(["--test", &test]);
            }
            more.push(others);
        }
        more.insert(0, cargo(&all));
        more
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

/// Tests of orch-store that need a server.
const SERVED: [&str; 9] = [
    "engine",
    "etcd",
    "etcd_faults",
    "etcd_lease",
    "postgres",
    "postgres_faults",
    "redis",
    "redis_faults",
    "redis_histories",
];

/// Integration tests of a package but these.
fn tests_of(package: &str, left_out: &[&str]) -> Result<Vec<String>> {
    let tests = root().join(package).join("tests");
    let entries = std::fs::read_dir(&tests).context(tests.display())?.flatten().map(|entry| entry.path());
    let is_test = |path: &std::path::PathBuf| {
        path.extension().is_some_and(|ending| ending == "rs") || path.join("main.rs").is_file()
    };
    let names = entries.filter(is_test);
    let names = names.filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
    Ok(names.filter(|name| !left_out.contains(&name.as_str())).collect())
}
