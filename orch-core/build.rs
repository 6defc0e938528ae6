//! Compiles the launcher of the process runtime, which the library carries within itself. It is a program of
//! the standard library alone, so that the compiler that builds this crate is all it takes.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
};

const SOURCE: &str = "src/runtime/process/launcher";

/// Linked statically where that works: it needs no library of the node then, and starts sooner.
const LINKING: [&[&str]; 2] = [&["-C", "target-feature=+crt-static"], &[]];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={SOURCE}");
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        return ExitCode::SUCCESS;
    }
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let flags: Vec<&str> = flags.split('\u{1f}').filter(|flag| !flag.is_empty()).collect();
    let mut failures = String::new();
    // Flags of the user may name the linker that a target needs, or may be meant for quite other things.
    for flags in [&[][..], &flags] {
        for linking in LINKING {
            match compile(linking, flags) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(failure) => failures = failure,
            }
        }
    }
    println!(
        "cargo::error=the launcher of the process runtime cannot be compiled: {}",
        failures.replace('\n', " ")
    );
    ExitCode::FAILURE
}

fn compile(linking: &[&str], flags: &[&str]) -> Result<(), String> {
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", "orch_launcher", "--crate-type", "bin"])
        .args(["--target", &variable("TARGET")])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(linking)
        .args(flags)
        .arg("-o")
        .arg(Path::new(&variable("OUT_DIR")).join("orch-launcher"))
        .arg(Path::new(SOURCE).join("main.rs"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut argument = std::ffi::OsString::from("linker=");
        argument.push(linker);
        rustc.arg("-C").arg(argument);
    }
    let output = rustc.output().map_err(|error| format!("{rustc:?}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
