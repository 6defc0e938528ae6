//! Cases of start, end and removal.

use super::{Outcome, Program, bench::Bench};
use crate::{
    runtime::{FoundState, RuntimeError, RuntimeErrorKind},
    testkit::{Failure, ensure},
};

pub(super) async fn exit_codes_are_reported(bench: &Bench<'_>) -> Outcome {
    for code in [0, 3, 125] {
        let attempt = bench.run(&Program::exits(code)).await?;
        let exit = bench.runtime().wait(attempt).await?;
        ensure!(exit.code == code, "exit {code} came back as {exit}");
        ensure!(exit.signal.is_none() && !exit.oom_killed, "exit {code} came back as {exit:?}");
    }
    Ok(())
}

pub(super) async fn a_death_by_signal_is_128_plus_its_number(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run(&Program::IsKilled).await?;
    let exit = bench.runtime().wait(attempt).await?;
    ensure!(exit.code == 137, "SIGKILL came back as {exit:?}");

    let attempt = bench.run_until_ready(&Program::Sleeps).await?;
    bench.runtime().kill(attempt).await?;
    let exit = bench.runtime().wait(attempt).await?;
    ensure!((exit.code, exit.signal) == (137, Some(9)), "a killed task came back as {exit:?}");
    Ok(())
}

pub(super) async fn wait_after_the_end_answers_again(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run(&Program::exits(4)).await?;
    let runtime = bench.runtime();
    let (one, two) = tokio::join!(runtime.wait(attempt), runtime.wait(attempt));
    let (one, two, three) = (one?, two?, runtime.wait(attempt).await?);
    ensure!(one == two && two == three && one.code == 4, "answers differ: {one:?} {two:?} {three:?}");
    Ok(())
}

pub(super) async fn start_is_idempotent(bench: &Bench<'_>) -> Outcome {
    let work = bench.program(&Program::Sleeps);
    bench.start(&work).await?;
    bench.until_ready(work.attempt).await?;
    let runtime = bench.runtime();
    let (again, once_more) = (runtime.start(&work).await?, runtime.start(&work).await?);
    ensure!(again == once_more, "two starts: {again:?}, {once_more:?}");
    let count = runtime.list().await?.iter().filter(|found| found.attempt == work.attempt).count();
    ensure!(count == 1, "listed {count} times");
    Ok(())
}

pub(super) async fn start_after_the_end_starts_nothing(bench: &Bench<'_>) -> Outcome {
    let work = bench.program(&Program::prints("ran\n", 6));
    bench.start(&work).await?;
    let runtime = bench.runtime();
    runtime.wait(work.attempt).await?;
    runtime.start(&work).await?;
    let exit = runtime.wait(work.attempt).await?;
    ensure!(exit.code == 6, "the second start changed the exit to {exit}");
    let output = bench.output(work.attempt, true).await?;
    ensure!(output.stdout == "ran\n", "it ran again: {:?}", output.stdout);
    Ok(())
}

pub(super) async fn concurrent_starts_are_one(bench: &Bench<'_>) -> Outcome {
    let work = bench.program(&Program::prints("ran\n", 0));
    let runtime = bench.runtime();
    let (one, two, three) = tokio::join!(runtime.start(&work), runtime.start(&work), runtime.start(&work));
    let (one, two, three) = (one?, two?, three?);
    ensure!(one.handle == two.handle && two.handle == three.handle, "{one:?} {two:?} {three:?}");
    runtime.wait(work.attempt).await?;
    let output = bench.output(work.attempt, true).await?;
    ensure!(output.stdout == "ran\n", "it ran more than once: {:?}", output.stdout);
    Ok(())
}

pub(super) async fn remove_forgets(bench: &Bench<'_>) -> Outcome {
    let work = bench.program(&Program::exits(0));
    let attempt = bench.start(&work).await?;
    let runtime = bench.runtime();
    runtime.wait(attempt).await?;
    runtime.remove(attempt).await?;
    runtime.remove(attempt).await?;
    not_found("wait", runtime.wait(attempt).await)?;
    not_found("logs", runtime.logs(attempt, false).await)?;
    ensure!(!runtime.list().await?.iter().any(|found| found.attempt == attempt), "still listed");
    // A removed attempt may be started anew.
    bench.start(&work).await?;
    let exit = runtime.wait(attempt).await?;
    ensure!(exit.code == 0, "the new life ended with {exit}");
    Ok(())
}

pub(super) async fn remove_ends_what_runs(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run_until_ready(&Program::IgnoresStop).await?;
    let runtime = bench.runtime();
    let running = runtime.list().await?.into_iter().find(|found| found.attempt == attempt);
    let state = running.map(|found| found.state);
    ensure!(state == Some(FoundState::Running), "listed as {state:?}");
    let (one, two) = tokio::join!(runtime.remove(attempt), runtime.remove(attempt));
    one.and(two)?;
    ensure!(!runtime.list().await?.iter().any(|found| found.attempt == attempt), "still listed");
    Ok(())
}

pub(super) async fn unknown_attempts_are_not_found(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.program(&Program::exits(0)).attempt;
    let runtime = bench.runtime();
    not_found("adopt", runtime.adopt(attempt).await)?;
    not_found("wait", runtime.wait(attempt).await)?;
    not_found("stop", runtime.stop(attempt, std::time::Duration::ZERO).await)?;
    not_found("kill", runtime.kill(attempt).await)?;
    not_found("logs", runtime.logs(attempt, true).await)?;
    if runtime.capabilities().stats {
        not_found("stats", runtime.stats(attempt).await)?;
    }
    Ok(runtime.remove(attempt).await?)
}

fn not_found<T>(operation: &str, answer: Result<T, RuntimeError>) -> Outcome {
    match answer {
        Err(error) if error.kind == RuntimeErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure(format!("{operation} answered {} ({error})", error.kind.as_str()))),
        Ok(_) => Err(Failure(format!("{operation} answered as if the attempt were here"))),
    }
}
