//! Checks that need another toolchain than the one in use: the declared oldest Rust, and the nightly one that
//! describes the public interface of the libraries.

use std::{fs, path::PathBuf, process::Command};

use crate::{
    gate::LIBRARIES,
    shell::{Context, Error, Result, has, read, root, run, say, target},
};

/// Directory of the lists of public items, one for each library. A change of them is a change for users.
const LISTS: &str = "xtask/api";

/// Installs the optional tools of the gate that no package manager provides.
pub(crate) fn install() -> Result {
    if public_api().is_none() {
        let to = target().join("tools");
        let mut install = Command::new("cargo");
        install.args(["install", "cargo-public-api", "--locked", "--root"]).arg(to);
        run(&mut install)?;
    }
    if toolchain(&oldest()?).is_none() {
        run(Command::new("rustup").args(["toolchain", "install", &oldest()?, "--profile", "minimal"]))?;
    }
    Ok(())
}

/// Builds the libraries and examples with the oldest Rust that the manifests declare.
pub(crate) fn check_oldest() -> Result {
    let oldest = oldest()?;
    let Some(toolchain) = toolchain(&oldest) else {
        say(format!("not checked: a build with Rust {oldest}, which is not installed (cargo xtask tools)"));
        return Ok(());
    };
    let mut check = Command::new("rustup");
    check.args(["run", &toolchain, "cargo", "check", "--quiet", "--workspace", "--all-features"]);
    // A separate directory, as each toolchain would discard the build of the other.
    run(check.arg("--target-dir").arg(target().join("oldest")).current_dir(root()))
}

/// Compares the public items of each library with the stored list, so that no change of them goes unnoticed.
pub(crate) fn check_api() -> Result {
    let Some(tool) = usable_public_api() else { return Ok(()) };
    let mut changed = Vec::new();
    for library in LIBRARIES {
        let (stored, now) =
            (fs::read_to_string(list(library)).unwrap_or_default(), describe(&tool, library)?);
        if stored != now {
            changed.push(format!("{library}\n{}", difference(&stored, &now)));
        }
    }
    match changed.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!(
            "public items have changed; note what users must do in CHANGELOG.md, then run cargo xtask api\n{}",
            changed.join("\n")
        ))),
    }
}

/// Writes the lists anew.
pub(crate) fn write_api() -> Result {
    let Some(tool) = usable_public_api() else {
        return Err(Error::new("a nightly Rust and cargo-public-api are needed: cargo xtask tools"));
    };
    for library in LIBRARIES {
        let path = list(library);
        fs::create_dir_all(root().join(LISTS)).context(LISTS)?;
        fs::write(&path, describe(&tool, library)?).context(path.display())?;
    }
    Ok(())
}

fn usable_public_api() -> Option<PathBuf> {
    let tool = public_api().filter(|_| toolchain("nightly").is_some());
    if tool.is_none() {
        say("not checked: public items, which takes a nightly Rust and cargo-public-api (cargo xtask tools)");
    }
    tool
}

fn public_api() -> Option<PathBuf> {
    let own = target().join("tools/bin/cargo-public-api");
    match own.is_file() {
        true => Some(own),
        false => has("cargo-public-api").then(|| PathBuf::from("cargo-public-api")),
    }
}

fn describe(tool: &PathBuf, library: &str) -> Result<String> {
    let mut command = Command::new(tool);
    command.args(["public-api", "--all-features", "-sss", "--package", library]);
    // Colours depend on the terminal.
    command.args(["--color", "never", "--target-dir"]).arg(target().join("api"));
    read(command.current_dir(root()))
}

/// Lines that only one of the two has, as in a diff.
fn difference(stored: &str, now: &str) -> String {
    let missing = |from: &str, to: &str, sign: &str| -> Vec<String> {
        let others: std::collections::BTreeSet<&str> = to.lines().collect();
        from.lines().filter(|line| !others.contains(line)).map(|line| format!("{sign} {line}")).collect()
    };
    [missing(stored, now, "-"), missing(now, stored, "+")].concat().join("\n")
}

fn list(library: &str) -> PathBuf {
    root().join(LISTS).join(library).with_extension("txt")
}

/// The `rust-version` of the workspace.
fn oldest() -> Result<String> {
    let manifest = root().join("Cargo.toml");
    let text = fs::read_to_string(&manifest).context(manifest.display())?;
    let line = text.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let version = line.map(|version| version.trim_matches('"').to_owned());
    version.ok_or_else(|| Error::new("Cargo.toml declares no rust-version"))
}

/// Full name of an installed toolchain of this version.
fn toolchain(version: &str) -> Option<String> {
    let listed = has("rustup").then(|| read(Command::new("rustup").args(["toolchain", "list"])));
    let listed = listed?.unwrap_or_default();
    let is_of = |line: &&str| line.strip_prefix(version).is_some_and(|rest| rest.starts_with(['-', '.']));
    listed.lines().find(is_of).and_then(|line| line.split_whitespace().next()).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_list_has_is_shown_with_its_sign() {
        assert_eq!(difference("a\nb\n", "b\nc\n"), "- a\n+ c");
        assert_eq!(difference("a\n", "a\n"), "");
    }

    #[test]
    fn the_oldest_rust_is_read_from_the_manifest() {
        assert!(oldest().unwrap().starts_with("1."));
    }
}
