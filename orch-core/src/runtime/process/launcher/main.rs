//! Launcher of one attempt: a small program of its own, which the build script compiles and the runtime
//! carries within itself. It reads a [`Plan`] from its standard input, notes down who it is, runs the program
//! in a process group of the program's own, copies both outputs into files, and notes down how the program
//! ended. It outlives the agent that started it, and what the program sends to its own group does not reach
//! it.
//!
//! The agent may vanish at any time: a plan that arrives only partly starts nothing, and an answer that
//! nobody reads is no reason to stop.

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

/// What the launcher ends with when it ran nothing. Whoever started it goes by the answer, not by this.
const NOTHING_RAN: u8 = 125;

/// What kept the program from running: the step, and the system's number for why.
struct Failure(&'static str, io::Error);

fn main() -> ExitCode {
    // Who asked for it is gone, or is no agent.
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

/// Runs the program, unless another launcher of the same attempt was here before.
fn start(plan: Plan) -> Result<Option<(Record, Child, Copies)>, Failure> {
    // What may fail comes before the record, which says that the program may have run.
    let copies = Copies::begin(&plan.dir, plan.output_limit).map_err(|error| Failure("pipes", error))?;
    let outputs = copies.writers().map_err(|error| Failure("pipes", error))?;
    let record = Record::create(&plan, copies.inodes()).map_err(|error| Failure("record", error))?;
    let Some(mut record) = record else { return Ok(None) };
    match spawn(plan, outputs) {
        Ok(child) => {
            // Only a help to whoever ends the attempt, who has other means to find it.
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

/// Waits for the end and notes it down. What others still write to the outputs after that is not waited for.
fn attend(mut record: Record, mut child: Child, copies: Copies) -> u8 {
    let ended = child.wait();
    copies.finish();
    let Ok(status) = ended else { std::process::abort() };
    let code = code_of(status);
    // When this fails the agent still sees the code that the launcher ends with, if it lives.
    let _ = record.set_exit(code);
    code
}

/// As shells have it: 128 and the signal's number.
fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn answer(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
