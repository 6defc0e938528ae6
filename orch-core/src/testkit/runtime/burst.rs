//! Much output just before the end.

use std::time::Duration;

use futures_util::StreamExt;

use super::{
    Outcome,
    bench::{Bench, Output},
};
use crate::{
    model::AttemptId,
    runtime::{LogChunk, RuntimeError},
    testkit::ensure,
};

/// Bounds of the numbers that are printed: a MiB and more to standard output.
const STDOUT: (usize, usize) = (100_000, 259_999);
const STDERR: (usize, usize) = (100_000, 101_599);

/// Bytes of a line without its end. What counts is how much there is to deliver; lines cost runtimes time as well.
const WIDTH: usize = 1120;

/// More than is printed, with room for the way in which a runtime keeps it.
const KEPT_BYTES: u64 = 64 << 20;

const PATIENT: Duration = Duration::from_secs(30);

fn print((first, last): (usize, usize)) -> String {
    format!("seq {first} {last} | tr \"\\n\" \" \" | fold -w {WIDTH}")
}

fn burst() -> String {
    format!("{}; {} >&2", print(STDOUT), print(STDERR))
}

/// Does `before`, and ends with a burst when it is stopped. What the shell has to say of the signal is not printed.
fn at_the_end(before: &str) -> String {
    let burst = burst();
    format!(
        "exec 3>&2 2>/dev/null; trap 'exec 2>&3; {burst}; exit 0' TERM; {before}; while :; do sleep 0.05; done"
    )
}

/// Output of [`print`].
fn printed((first, last): (usize, usize)) -> String {
    let numbers: Vec<_> = (first..=last).map(|number| format!("{number} ")).collect();
    let lines: Vec<_> = numbers.chunks(WIDTH / numbers[0].len()).map(<[String]>::concat).collect();
    lines.join("\n")
}

async fn run(bench: &Bench<'_>, script: &str) -> Outcome<AttemptId> {
    let mut spec = bench.harness.sh(script);
    spec.output_limit_bytes = KEPT_BYTES;
    bench.start(&bench.work(spec)).await
}

/// That `chunks` are all that was printed after `before`, each byte once.
fn check(chunks: &[LogChunk], before: &str) -> Outcome {
    let output = Output::of(chunks)?;
    ensure!(output.stdout_from == 0, "standard output begins at offset {}", output.stdout_from);
    for (name, found, expected) in [
        ("output", output.stdout, format!("{before}{}", printed(STDOUT))),
        ("error", output.stderr, printed(STDERR)),
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
    let attempt = run(bench, &burst()).await?;
    let chunks: Vec<_> = bench.runtime().logs(attempt, true).await?.collect().await;
    check(&chunks.into_iter().collect::<Result<Vec<_>, RuntimeError>>()?, "")
}

pub(super) async fn a_burst_is_complete_for_a_reader_that_is_slower_than_the_task(
    bench: &Bench<'_>,
) -> Outcome {
    let attempt = run(bench, &at_the_end(&format!("{}; echo; echo ready", print(STDOUT)))).await?;
    bench.until_ready(attempt).await?;
    let runtime = bench.runtime();
    let mut logs = runtime.logs(attempt, true).await?;
    let mut chunks = Vec::new();
    chunks.extend(logs.next().await.transpose()?);
    // Whoever delivers it waits, with more in hand than fits on the way, while the task prints the rest and ends.
    runtime.stop(attempt, PATIENT).await?;
    runtime.wait(attempt).await?;
    while let Some(chunk) = logs.next().await {
        chunks.push(chunk?);
    }
    check(&chunks, &format!("{}\nready\n", printed(STDOUT)))
}

pub(super) async fn a_burst_is_complete_when_following_begins_just_before_the_end(
    bench: &Bench<'_>,
) -> Outcome {
    let attempt = run(bench, &at_the_end("echo ready")).await?;
    bench.until_ready(attempt).await?;
    let runtime = bench.runtime();
    let follow =
        async { Ok::<_, RuntimeError>(runtime.logs(attempt, true).await?.collect::<Vec<_>>().await) };
    let (chunks, stopped) = tokio::join!(follow, runtime.stop(attempt, PATIENT));
    stopped?;
    check(&chunks?.into_iter().collect::<Result<Vec<_>, RuntimeError>>()?, "ready\n")
}
