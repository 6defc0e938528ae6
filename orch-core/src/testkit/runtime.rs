//! Conformance suite of [`Runtime`].
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use orch_core::{model::TaskSpec, runtime::Runtime, testkit::runtime::{RuntimeHarness, run_all}};
//! struct Mine;
//!
//! #[async_trait::async_trait]
//! impl RuntimeHarness for Mine {
//!     async fn runtime(&self) -> Arc<dyn Runtime> {
//!         todo!("a runtime over the same state each time")
//!     }
//!     fn sh(&self, script: &str) -> TaskSpec {
//!         TaskSpec::program("job", "sh").args(["-c", script])
//!     }
//!     fn secret_path(&self) -> String {
//!         "/run/secrets/token".into()
//!     }
//! }
//!
//! # async fn test() {
//! run_all(&Mine).await;
//! # }
//! ```
//!
//! A backend that runs no shell overrides [`RuntimeHarness::program`] instead of [`RuntimeHarness::sh`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::Outcome;
use crate::{model::TaskSpec, runtime::Runtime};

mod bench;
mod burst;
mod control;
mod input;
mod lifecycle;
mod output;
mod program;
mod watch;

use bench::Bench;
pub use program::Program;

/// Properties of a backend that the suite depends on.
#[async_trait]
pub trait RuntimeHarness: Send + Sync {
    /// Returns a runtime over the same underlying state each time: a repeated call means that the agent was
    /// restarted. The suite drops the runtime before, and cases run one after the other.
    async fn runtime(&self) -> Arc<dyn Runtime>;

    /// Task that does what `program` specifies. By a shell, unless the backend has another way.
    fn program(&self, program: &Program) -> TaskSpec {
        self.sh(&program.script())
    }

    /// Task that runs `script` with a POSIX shell: `sh -c script`, so that arguments of the spec become `$0`,
    /// `$1`. Only [`program`](Self::program), and cases of capabilities that not every backend declares, need
    /// it.
    fn sh(&self, script: &str) -> TaskSpec {
        panic!("this harness has no shell for {script:?}: it must say what each program is")
    }

    /// Absolute path inside a task where a secret's file may be put.
    fn secret_path(&self) -> String {
        panic!("this harness has no place for files: it must say that secrets do not become any")
    }

    /// Whether secrets can become files.
    fn secret_files(&self) -> bool {
        true
    }

    /// Maximum duration of one case.
    fn case_timeout(&self) -> Duration {
        Duration::from_secs(60)
    }
}

/// Runs every case that the backend's capabilities require.
///
/// # Panics
/// When cases fail, with the name of each and the failure.
pub async fn run_all(harness: &dyn RuntimeHarness) {
    let mut failures = Vec::new();
    for (name, case) in CASES {
        let bench = Bench::new(harness).await;
        tracing::info!(case = name, "runtime conformance");
        let outcome = tokio::time::timeout(harness.case_timeout(), case(&bench)).await;
        let removed = bench.clear().await;
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => failures.push(format!("{name}: {}", failure.0)),
            Err(_) => failures.push(format!("{name}: not done after {:?}", harness.case_timeout())),
        }
        if let Err(error) = removed {
            failures.push(format!("{name}: cannot be removed afterwards: {error}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {} cases failed:\n{}",
        failures.len(),
        CASES.len(),
        failures.join("\n")
    );
}

type Case = for<'a> fn(&'a Bench<'a>) -> BoxFuture<'a, Outcome>;

macro_rules! cases {
    ($($module:ident::$case:ident),+ $(,)?) => {
        &[$((stringify!($case), |bench| Box::pin($module::$case(bench)))),+]
    };
}

const CASES: &[(&str, Case)] = cases![
    lifecycle::exit_codes_are_reported,
    lifecycle::a_death_by_signal_is_128_plus_its_number,
    lifecycle::wait_after_the_end_answers_again,
    lifecycle::start_is_idempotent,
    lifecycle::start_after_the_end_starts_nothing,
    lifecycle::concurrent_starts_are_one,
    lifecycle::remove_forgets,
    lifecycle::remove_ends_what_runs,
    lifecycle::unknown_attempts_are_not_found,
    control::stop_lets_the_task_end_itself,
    control::stop_kills_after_the_grace,
    control::stop_uses_the_signal_of_the_spec,
    control::kill_ends_the_whole_tree,
    control::stopping_what_has_ended_is_a_success,
    output::streams_have_offsets,
    output::follow_ends_with_the_task,
    output::the_newest_output_is_kept,
    output::without_follow_it_does_not_wait,
    burst::a_burst_before_the_end_is_followed_to_its_end,
    burst::a_burst_is_complete_for_a_reader_that_is_slower_than_the_task,
    burst::a_burst_is_complete_when_following_begins_just_before_the_end,
    input::environment_arguments_and_directory,
    input::secrets_arrive,
    input::secrets_are_never_printed,
    input::a_missing_secret_is_an_error,
    input::a_missing_program_is_an_error,
    input::a_missing_user_is_an_error,
    input::a_missing_image_is_an_error,
    input::a_bad_image_reference_is_an_error,
    watch::a_restart_finds_what_runs_and_what_ended,
    watch::a_restart_does_not_start_again,
    watch::events_tell_the_end,
    watch::events_tell_health,
    watch::stats_while_it_runs,
    watch::out_of_memory_is_told,
];
