//! Fuzzing: each target for some time, from its seeds and the inputs that earlier runs found.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::shell::{Context, Error, Result, has, read, root, run, say};

/// Fuzz targets, and the maximum length of inputs that are worth their time.
const TARGETS: [(&str, u32); 4] =
    [("crdt_message", 4096), ("pbft_message", 4096), ("pbft_wal", 16384), ("pbft_step", 512)];
const SECONDS: u32 = 60;
/// Timeout of one input, in seconds.
const TIMEOUT_SECONDS: u32 = 20;

/// Options of the command line.
#[derive(Debug)]
pub(crate) struct Options {
    seconds: u32,
    targets: Vec<(&'static str, u32)>,
}

impl Options {
    pub(crate) fn read(words: &[&str]) -> Result<Self> {
        let mut options = Self { seconds: SECONDS, targets: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if *word == "--seconds" {
                let number = words.next().and_then(|number| number.parse().ok());
                // To libFuzzer 0 means without end.
                let positive = number.filter(|seconds| *seconds > 0);
                options.seconds = positive.ok_or_else(|| Error::new("--seconds needs a number from 1 on"))?;
            } else if let Some(target) = TARGETS.iter().find(|(name, _)| name == word) {
                options.targets.push(*target);
            } else {
                let names = TARGETS.map(|(name, _)| name).join(", ");
                return Err(Error::new(format!("no such target: {word}; there are {names}")));
            }
        }
        if options.targets.is_empty() {
            options.targets.extend(TARGETS);
        }
        Ok(options)
    }
}

/// Runs the targets one after the other, and prints a line for each.
pub(crate) fn fuzz(options: &Options) -> Result {
    check_tools()?;
    run(&mut cargo_fuzz("build"))?;
    let mut lines = Vec::new();
    for (target, longest) in &options.targets {
        lines.push(run_target(target, *longest, options.seconds)?);
    }
    say(format!("\n{}", lines.join("\n")));
    Ok(())
}

fn check_tools() -> Result {
    let install = |what: &str, command: &str| Err(Error::new(format!("fuzzing needs {what}: {command}")));
    if !has("rustup") || read(Command::new("rustup").args(["run", "nightly", "rustc", "--version"])).is_err()
    {
        return install("nightly Rust", "rustup toolchain install nightly --profile minimal");
    }
    if !has("cargo-fuzz") {
        return install("cargo-fuzz", "cargo install cargo-fuzz --locked");
    }
    Ok(())
}

/// Command of cargo-fuzz without sanitizers: there is no unsafe code here that they could find anything in,
/// and they halve the speed.
fn cargo_fuzz(what: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", what, "--sanitizer", "none"]).current_dir(root());
    command
}

fn run_target(target: &str, longest: u32, seconds: u32) -> Result<String> {
    let corpus = root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus).context(corpus.display())?;
    say(format!("\n{target}, for {seconds} s"));
    let mut command = cargo_fuzz("run");
    // New inputs are written to the first directory.
    command.arg(target).arg(corpus).arg(root().join("fuzz/seeds").join(target)).arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-max_len={longest}"),
        // Inputs may become longer sooner than they do by default.
        "-len_control=20".to_owned(),
        format!("-timeout={TIMEOUT_SECONDS}"),
    ]);
    let output = command.stdin(Stdio::null()).output().context("cargo fuzz run")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Error::new(failure(target, &text)));
    }
    Ok(summary(target, &text))
}

/// Last status line of libFuzzer as text: `#8192 DONE cov: 900 ft: 2000 corp: 150/12Kb ...`.
fn summary(target: &str, output: &str) -> String {
    let line =
        output.lines().rfind(|line| line.contains("DONE") && line.contains("cov:")).unwrap_or_default();
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |name: &str| {
        let at = words.iter().position(|word| *word == name);
        at.and_then(|at| words.get(at + 1)).copied().unwrap_or("?")
    };
    let runs = words.first().map_or("?", |word| word.trim_start_matches('#'));
    let inputs = after("corp:").split('/').next().unwrap_or("?");
    format!(
        "{target}: {runs} runs, {} edges and {} features covered, {inputs} inputs kept",
        after("cov:"),
        after("ft:")
    )
}

/// End of the output, and the command that reproduces the failure.
fn failure(target: &str, output: &str) -> String {
    let lines: Vec<&str> = output.lines().collect();
    let tail = lines[lines.len().saturating_sub(60)..].join("\n");
    let written = lines.iter().find_map(|line| line.split_once("Test unit written to "));
    match written {
        Some((_, path)) => {
            format!("{tail}\n\nagain: cargo +nightly fuzz run --sanitizer none {target} {}", path.trim())
        }
        None => format!("{tail}\n\n{target} failed and kept no input"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_becomes_a_line() {
        let output =
            "#2\tINITED cov: 10 ft: 11 corp: 1/1b\n#77\tDONE   cov: 20 ft: 30 corp: 4/90b lim: 4\nDone";
        assert_eq!(summary("x", output), "x: 77 runs, 20 edges and 30 features covered, 4 inputs kept");
    }

    #[test]
    fn a_crash_ends_with_the_command_that_shows_it_again() {
        let output = "panicked\nartifact_prefix='a/'; Test unit written to a/crash-1\nBase64: eA==";
        let last = "again: cargo +nightly fuzz run --sanitizer none x a/crash-1";
        assert!(failure("x", output).ends_with(last));
    }

    #[test]
    fn only_known_targets_are_run() {
        assert_eq!(Options::read(&[]).expect("all").targets.len(), TARGETS.len());
        assert_eq!(Options::read(&["pbft_wal", "--seconds", "5"]).expect("one").seconds, 5);
        for wrong in [&["unknown"][..], &["--seconds"], &["--seconds", "0"]] {
            assert!(Options::read(wrong).is_err());
        }
    }
}
