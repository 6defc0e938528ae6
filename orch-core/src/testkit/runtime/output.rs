//! Cases of logs.

use futures_util::StreamExt;

use super::{
    Outcome, Program,
    bench::{Bench, read_until},
};
use crate::{runtime::OutputStream, testkit::ensure};

pub(super) async fn streams_have_offsets(bench: &Bench<'_>) -> Outcome {
    let pieces = [
        (OutputStream::Stdout, "one\n"),
        (OutputStream::Stderr, "two\n"),
        (OutputStream::Stdout, "three\n"),
        (OutputStream::Stdout, "end"),
    ];
    let pieces = pieces.map(|(stream, text)| (stream, text.into())).to_vec();
    let attempt = bench.run(&Program::Prints { pieces, code: 0 }).await?;
    bench.runtime().wait(attempt).await?;
    let output = bench.output(attempt, true).await?;
    ensure!(output.stdout == "one\nthree\nend", "standard output is {:?}", output.stdout);
    ensure!(output.stderr == "two\n", "standard error is {:?}", output.stderr);
    ensure!(output.stdout_from == 0, "the first offset is {}", output.stdout_from);
    let again = bench.output(attempt, false).await?;
    ensure!(output == again, "read again it is {again:?}");
    Ok(())
}

pub(super) async fn follow_ends_with_the_task(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run(&Program::ends_when_asked(0, "last\n")).await?;
    let runtime = bench.runtime();
    let mut logs = runtime.logs(attempt, true).await?;
    // The output arrives while the task runs, not after its end.
    read_until(&mut logs, "ready\n").await?;
    runtime.stop(attempt, std::time::Duration::from_secs(30)).await?;
    read_until(&mut logs, "last\n").await?;
    ensure!(logs.next().await.is_none(), "something came after the last line");
    Ok(())
}

pub(super) async fn the_newest_output_is_kept(bench: &Bench<'_>) -> Outcome {
    const LINES: u64 = 2000;
    const LINE_BYTES: u64 = 20;
    let mut spec = bench.harness.program(&Program::Counts { lines: LINES });
    spec.output_limit_bytes = 4096;
    let limit = spec.output_limit_bytes;
    let attempt = bench.start(&bench.work(spec)).await?;
    bench.runtime().wait(attempt).await?;
    let output = bench.output(attempt, false).await?;
    let kept = u64::try_from(output.stdout.len() + output.stderr.len()).unwrap_or(u64::MAX);
    ensure!(kept <= limit, "{kept} bytes are kept, the limit is {limit}");
    ensure!(kept > limit / 4, "only {kept} bytes are kept, the limit is {limit}");
    let last = format!("{LINES:019}\n");
    ensure!(output.stdout.ends_with(&last), "the newest line is gone");
    let end = output.stdout_from + u64::try_from(output.stdout.len()).unwrap_or(u64::MAX);
    ensure!(end == LINES * LINE_BYTES, "offsets end at {end}, {} were written", LINES * LINE_BYTES);
    Ok(())
}

pub(super) async fn without_follow_it_does_not_wait(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run_until_ready(&Program::Sleeps).await?;
    let output = bench.output(attempt, false).await?;
    ensure!(output.stdout == "ready\n", "it printed {:?}", output.stdout);
    Ok(())
}
