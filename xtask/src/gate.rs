//! The gate: everything that can be checked without running tests. It edits nothing; `fix` does.

use crate::{
    licences,
    shell::{Error, Result, cargo, complain, has, root, run, say, target},
    tidy, toolchains,
};

/// Published library crates, whose features are checked one by one.
pub(crate) const LIBRARIES: [&str; 7] =
    ["orch-base", "orch-consensus", "orch-core", "orch-docker", "orch-net", "orch-sim", "orch-store"];

/// Separate workspaces, because of their dependencies.
const SEPARATE: [&str; 3] = ["benches/bft", "benches/crdt", "fuzz"];

/// Runs every check, so that one run shows all failures.
pub(crate) fn check() -> Result {
    let mut failed = Vec::new();
    let mut step = |name: &str, done: Result| {
        if let Err(error) = done {
            complain(&error.to_string());
            failed.push(name.to_string());
        }
    };
    step("tidy", tidy::check());
    step("format", run(&mut cargo(&["fmt", "--all", "--check"])));
    for features in feature_sets()? {
        let words: Vec<&str> = features.iter().map(String::as_str).collect();
        step("clippy", run(cargo(&["clippy", "--quiet"]).args(words).args(["--", "--deny", "warnings"])));
    }
    let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--all-features"]);
    step("doc", run(doc.env("RUSTDOCFLAGS", "--deny warnings")));
    for workspace in SEPARATE {
        step(workspace, check_separate(workspace));
    }
    step("oldest Rust", toolchains::check_oldest());
    step("public items", toolchains::check_api());
    step("package", package());
    step("deny", deny());
    if failed.is_empty() {
        say("\nthe gate is open");
        return Ok(());
    }
    failed.dedup();
    Err(Error::new(format!("the gate is closed: {}", failed.join(", "))))
}

/// Formats, and lets clippy fix what it can.
pub(crate) fn fix() -> Result {
    run(&mut cargo(&[
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--workspace",
        "--all-features",
        "--all-targets",
    ]))?;
    run(&mut cargo(&["fmt", "--all"]))
}

/// Combinations of features that are checked: everything at once as tests see it, and each library with no
/// and with each feature alone, which reveals a missing `cfg`.
fn feature_sets() -> Result<Vec<Vec<String>>> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut sets = vec![words(&["--workspace", "--all-features", "--all-targets"])];
    for library in LIBRARIES {
        sets.push(words(&["--package", library, "--no-default-features"]));
        for feature in features(library)? {
            sets.push(words(&["--package", library, "--no-default-features", "--features", &feature]));
        }
    }
    Ok(sets)
}

/// The names in the `[features]` table of a crate's manifest.
fn features(library: &str) -> Result<Vec<String>> {
    use crate::shell::Context;
    let manifest = root().join(library).join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).context(manifest.display())?;
    let table = text.lines().skip_while(|line| *line != "[features]").skip(1);
    let entries = table.take_while(|line| !line.starts_with('['));
    let names =
        entries.filter(|line| !line.starts_with([' ', ']', '#'])).filter_map(|line| line.split_once('='));
    Ok(names.map(|(name, _)| name.trim().to_string()).filter(|name| name != "default").collect())
}

/// Checks the packages as they would be published: no file is missing, no metadata.
fn package() -> Result {
    let mut command = cargo(&["package", "--quiet", "--no-verify", "--allow-dirty"]);
    for library in LIBRARIES {
        command.args(["--package", library]);
    }
    run(&mut command)
}

fn check_separate(workspace: &str) -> Result {
    let mut check = cargo(&["check", "--quiet", "--locked", "--all-targets", "--manifest-path"]);
    check.arg(root().join(workspace).join("Cargo.toml"));
    run(check.arg("--target-dir").arg(target().join("separate")))
}

fn deny() -> Result {
    if has("cargo-deny") {
        // Advisories come from a server, which a check of this tree must not depend on.
        return run(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]));
    }
    licences::check()
}
