//! Cases of stop and kill.

use std::time::{Duration, Instant};

use super::{Outcome, Program, bench::Bench};
use crate::{model::StopSignal, testkit::ensure};

const PATIENT: Duration = Duration::from_secs(30);

pub(super) async fn stop_lets_the_task_end_itself(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run_until_ready(&Program::ends_when_asked(7, "bye\n")).await?;
    let runtime = bench.runtime();
    let began = Instant::now();
    runtime.stop(attempt, PATIENT).await?;
    ensure!(began.elapsed() < PATIENT, "stop waited for the whole grace");
    let exit = runtime.wait(attempt).await?;
    ensure!(exit.code == 7, "it ended with {exit}");
    let output = bench.output(attempt, true).await?;
    ensure!(output.stdout == "ready\nbye\n", "it printed {:?}", output.stdout);
    Ok(())
}

pub(super) async fn stop_kills_after_the_grace(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run_until_ready(&Program::IgnoresStop).await?;
    let grace = Duration::from_millis(300);
    let began = Instant::now();
    bench.runtime().stop(attempt, grace).await?;
    ensure!(began.elapsed() >= grace, "killed after {:?}, before its grace was over", began.elapsed());
    let exit = bench.runtime().wait(attempt).await?;
    ensure!((exit.code, exit.signal) == (137, Some(9)), "it ended with {exit:?}");
    Ok(())
}

pub(super) async fn stop_uses_the_signal_of_the_spec(bench: &Bench<'_>) -> Outcome {
    let codes = vec![(StopSignal::Usr1, 8), (StopSignal::Term, 9)];
    let mut spec = bench.harness.program(&Program::EndsWhenAsked { codes, last_words: String::new() });
    spec.stop.signal = StopSignal::Usr1;
    let attempt = bench.start(&bench.work(spec)).await?;
    bench.until_ready(attempt).await?;
    // An attempt of an earlier incarnation of the agent is stopped by its own signal as well.
    if bench.runtime().capabilities().adopts {
        bench.restart().await;
    }
    bench.runtime().stop(attempt, PATIENT).await?;
    let exit = bench.runtime().wait(attempt).await?;
    ensure!(exit.code == 8, "it ended with {exit}");
    Ok(())
}

pub(super) async fn kill_ends_the_whole_tree(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run_until_ready(&Program::Ticks).await?;
    bench.runtime().kill(attempt).await?;
    bench.runtime().wait(attempt).await?;
    let before = bench.output(attempt, false).await?;
    // A child that survives would tick some twenty times while this one runs.
    let other = bench.run(&Program::Naps).await?;
    bench.runtime().wait(other).await?;
    let after = bench.output(attempt, false).await?;
    ensure!(before == after, "a child was still writing after the kill");
    Ok(())
}

pub(super) async fn stopping_what_has_ended_is_a_success(bench: &Bench<'_>) -> Outcome {
    let attempt = bench.run(&Program::exits(3)).await?;
    let runtime = bench.runtime();
    runtime.wait(attempt).await?;
    runtime.stop(attempt, PATIENT).await?;
    runtime.kill(attempt).await?;
    let exit = runtime.wait(attempt).await?;
    ensure!(exit.code == 3, "its exit changed to {exit}");
    Ok(())
}
