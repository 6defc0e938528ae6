//! Cases of much output just before the end.

use std::time::Duration;

use futures_util::StreamExt;

use super::{
    Outcome, Program,
    bench::{Bench, Output},
};
use crate::{
    model::AttemptId,
    runtime::{LogChunk, OutputStream, RuntimeError},
    testkit::ensure,
};

/// Output limit above what is printed, with slack for the granularity of a runtime's storage.
const KEPT_BYTES: u64 = 64 << 20;

const PATIENT: Duration = Duration::from_secs(30);

async fn run(bench: &Bench<'_>, program: &Program) -> Outcome<AttemptId> {
    let mut spec = bench.harness.program(program);
    spec.output_limit_bytes = KEPT_BYTES;
    bench.start(&bench.work(spec)).await
}

/// Checks that `chunks` are all that was printed after `before`, each byte once.
fn check(chunks: &[LogChunk], before: &str) -> Outcome {
    let output = Output::of(chunks)?;
    ensure!(output.stdout_from == 0, "standard output begins at offset {}", output.stdout_from);
    for (name, found, expected) in [
        ("output", output.stdout, format!("{before}{}", Program::burst(OutputStream::Stdout))),
        ("error", output.stderr, Program::burst(OutputStream::Stderr)),
    ] {
        let same =
            found.bytes().zip(expected.bytes()).take_while(|(found, expected)| found == expected).count();
        let (read, printed) = (found.len(), expected.len());
        ensure!(
            found == expected,
            "standard {name} is {read} bytes, of which {same} are right, not {printed}"
        );
    }
    Ok(())
}

pub(super) async fn a_burst_before_the_end_is_followed_to_its_end(bench: &Bench<'_>) -> Outcome {
    let attempt = run(bench, &Program::Bursts).await?;
    let chunks: Vec<_> = bench.runtime().logs(attempt, true).await?.collect().await;
    check(&chunks.into_iter().collect::<Result<Vec<_>, RuntimeError>>()?, "")
}

pub(super) async fn a_burst_is_complete_for_a_reader_that_is_slower_than_the_task(
    bench: &Bench<'_>,
) -> Outcome {
    let attempt = run(bench, &Program::BurstsWhenAsked { first: true }).await?;
    bench.until_ready(attempt).await?;
    let runtime = bench.runtime();
    let mut logs = runtime.logs(attempt, true).await?;
    let mut chunks = Vec::new();
    chunks.extend(logs.next().await.transpose()?);
    // The reader is blocked, with more chunks than fit in the buffers, while the task prints the rest and
    // ends.
    runtime.stop(attempt, PATIENT).await?;
    runtime.wait(attempt).await?;
    while let Some(chunk) = logs.next().await {
        chunks.push(chunk?);
    }
    check(&chunks, &format!("{}\nready\n", Program::burst(OutputStream::Stdout)))
}

pub(super) async fn a_burst_is_complete_when_following_begins_just_before_the_end(
    bench: &Bench<'_>,
) -> Outcome {
    let attempt = run(bench, &Program::BurstsWhenAsked { first: false }).await?;
    bench.until_ready(attempt).await?;
    let runtime = bench.runtime();
    let follow =
        async { Ok::<_, RuntimeError>(runtime.logs(attempt, true).await?.collect::<Vec<_>>().await) };
    let (chunks, stopped) = tokio::join!(follow, runtime.stop(attempt, PATIENT));
    stopped?;
    check(&chunks?.into_iter().collect::<Result<Vec<_>, RuntimeError>>()?, "ready\n")
}
