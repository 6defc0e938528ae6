//! Short tasks that leave a line each time one is started.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{Random, lab::Caller};

/// Beginning of the name of a task that is never started again.
pub(crate) const NEVER: &str = "never";
/// Beginning of the name of a task that is started again whenever it ends.
pub(crate) const ALWAYS: &str = "always";

/// Submits tasks until it is over; the ids that the manager answered.
pub(crate) fn submit_until(
    over: &AtomicBool,
    caller: &Caller,
    effects: &Path,
    mut random: Random,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        // Few, as each of these goes on until the end.
        let restart = match number {
            _ if number % 100 == 99 => ALWAYS,
            _ if number % 2 == 0 => NEVER,
            _ => "on-failure",
        };
        let (name, duration) = (format!("{restart}-{number}"), duration(&mut random));
        let script = format!(
            "echo $ORCH_ATTEMPT >> {}; sleep {}",
            effects.join(&name).display(),
            duration.as_secs_f64()
        );
        let words =
            ["run", "--program", "--cpu", "0.1", "--restart", restart, &name, "/bin/sh", "--", "-c", &script];
        let done = caller.orch(&words);
        // Without an answer it may have been taken all the same.
        if done.code == 0 {
            acknowledged.push(done.out.trim().to_owned());
        }
        thread::park_timeout(random.time(0, 200));
    }
    acknowledged
}

/// Mostly short, some longer than the node timeout.
fn duration(random: &mut Random) -> Duration {
    match random.below(10) {
        0 => random.time(2500, 6000),
        1 | 2 => random.time(500, 2500),
        _ => random.time(0, 500),
    }
}
