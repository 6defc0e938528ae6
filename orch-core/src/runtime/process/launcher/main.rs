//! Launcher of one attempt: a small executable, which the build script compiles and the runtime embeds. It
//! reads a [`Plan`] from its standard input, records its identity, runs the program in the program's own
//! process group, copies both outputs into files, and records the exit status. It outlives the agent that
//! started it, and signals that the program sends to its own group do not reach it.
//!
//! The agent may vanish at any time: an incomplete plan starts nothing, and a response that nobody reads is
//! no reason to stop.

#![forbid(unsafe_code)]

mod output;
mod plan;
mod record;

use std::{
    fs,
    io::{self, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
};

use output::Copies;
use plan::Plan;
use record::Record;

/// Exit code of a launcher that ran nothing. The agent decides by the response, not by this code.
const NOTHING_RAN: u8 = 125;

/// Failure to run the program: the step, and the system's error.
struct Failure(&'static str, io::Error);

fn main() -> ExitCode {
    // The parent has exited, or is no agent.
    let Ok(plan) = Plan::read(&mut io::stdin().lock()) else { return NOTHING_RAN.into() };
    let _ = fs::write("/proc/self/comm", "orch-launcher");
    let started = start(plan);
    match &started {
        Ok(Some((record, ..))) => answer(&format!("started\n{}", record.text())),
        Ok(None) => answer("taken\n"),
        Err(Failure(step, error)) => {
            answer(&format!("failed {step} {}\n", error.raw_os_error().unwrap_or_default()));
        }
    }
    let Ok(Some((record, child, copies))) = started else { return NOTHING_RAN.into() };
    ExitCode::from(attend(record, child, copies))
}

/// Runs the program, unless another launcher of the same attempt did so before.
fn start(plan: Plan) -> Result<Option<(Record, Child, Copies)>, Failure> {
    // Steps that may fail come before the record, which says that the program may have run.
    let copies = Copies::begin(&plan.dir, plan.output_limit).map_err(|error| Failure("pipes", error))?;
    let outputs = copies.writers().map_err(|error| Failure("pipes", error))?;
    let record = Record::create(&plan, copies.inodes()).map_err(|error| Failure("record", error))?;
    let Some(mut record) = record else { return Ok(None) };
    match spawn(plan, outputs) {
        Ok(child) => {
            // Only a hint for ending the attempt, whose processes can be found by other means.
            let _ = record.set_program(child.id());
            Ok(Some((record, child, copies)))
        }
        Err(error) => {
            let _ = record.set_exit(NOTHING_RAN);
            Err(Failure("program", error))
        }
    }
}

fn spawn(plan: Plan, [stdout, stderr]: [io::PipeWriter; 2]) -> io::Result<Child> {
    let mut command = Command::new(&plan.program);
    command
        .args(plan.args)
        .env_clear()
        .envs(plan.environment)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .process_group(0);
    if let Some(dir) = plan.working_dir {
        command.current_dir(dir);
    }
    command.spawn()
}

/// Waits for the exit and records it. Does not wait for output that other processes still write after that.
fn attend(mut record: Record, mut child: Child, copies: Copies) -> u8 {
    let ended = child.wait();
    copies.finish();
    let Ok(status) = ended else { std::process::abort() };
    let code = code_of(status);
    // When this fails the agent still sees the exit code of the launcher, if the agent is alive.
    let _ = record.set_exit(code);
    code
}

/// Exit code as shells report it: 128 and the signal's number.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn answer(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
