//! Cases of adoption after a restart, events, usage and health.

use std::{num::NonZeroU32, time::Duration};

use futures_util::StreamExt;

use super::{Outcome, Program, bench::Bench};
use crate::{
    model::{Exit, HealthCheck},
    runtime::{FoundState, RuntimeErrorKind, RuntimeEvent},
    testkit::{Failure, ensure},
};

pub(super) async fn a_restart_finds_what_runs_and_what_ended(bench: &Bench<'_>) -> Outcome {
    if !bench.runtime().capabilities().adopts {
        return Ok(());
    }
    let ended = bench.run(&Program::exits(5)).await?;
    bench.runtime().wait(ended).await?;
    let running = bench.run_until_ready(&Program::ends_when_asked(9, "")).await?;
    bench.restart().await;

    let runtime = bench.runtime();
    let found = runtime.list().await?;
    let state = |attempt| found.iter().find(|one| one.attempt == attempt).map(|one| one.state);
    ensure!(state(running) == Some(FoundState::Running), "the running one is {:?}", state(running));
    let five = FoundState::Ended(Exit::from_code(5));
    ensure!(state(ended) == Some(five), "the ended one is {:?}", state(ended));
    ensure!(found.iter().all(|one| one.started_at.is_some()), "no time of start: {found:?}");
    for one in &found {
        let adopted = runtime.adopt(one.attempt).await?;
        ensure!(adopted.handle == one.handle, "{one:?} was adopted as {adopted:?}");
        ensure!(Some(adopted.at) == one.started_at, "{one:?} was adopted as {adopted:?}");
    }

    let (exit, stopped) = tokio::join!(runtime.wait(running), runtime.stop(running, Duration::from_secs(30)));
    stopped?;
    let exit = exit?;
    ensure!(exit.code == 9, "the adopted one ended with {exit}");
    let output = bench.output(running, true).await?;
    ensure!(output.stdout == "ready\n", "its output is {:?}", output.stdout);
    let exit = runtime.wait(ended).await?;
    ensure!(exit.code == 5, "the ended one reports {exit}");
    Ok(())
}

pub(super) async fn a_restart_does_not_start_again(bench: &Bench<'_>) -> Outcome {
    if !bench.runtime().capabilities().adopts {
        return Ok(());
    }
    let work = bench.program(&Program::Sleeps);
    bench.start(&work).await?;
    bench.until_ready(work.attempt).await?;
    let first = bench.runtime().start(&work).await?;
    bench.restart().await;
    let second = bench.runtime().start(&work).await?;
    ensure!(first == second, "first {first:?}, after the restart {second:?}");
    let output = bench.output(work.attempt, false).await?;
    ensure!(output.stdout == "ready\n", "it ran again: {:?}", output.stdout);
    Ok(())
}

pub(super) async fn events_tell_the_end(bench: &Bench<'_>) -> Outcome {
    let mut events = bench.runtime().events().await?;
    let attempt = bench.run(&Program::exits(1)).await?;
    while let Some(event) = events.next().await {
        if event? == (RuntimeEvent::Ended { attempt }) {
            return Ok(());
        }
    }
    Err(Failure("the events ended without it".into()))
}

pub(super) async fn events_tell_health(bench: &Bench<'_>) -> Outcome {
    if !bench.runtime().capabilities().health {
        return Ok(());
    }
    let mut events = bench.runtime().events().await?;
    let mut spec = bench.harness.program(&Program::Sleeps);
    spec.health = Some(Box::new(HealthCheck {
        command: ["sh", "-c", "echo feeling faint; exit 1"].map(String::from).to_vec(),
        interval: Duration::from_millis(50),
        timeout: Duration::from_secs(10),
        start_period: Duration::ZERO,
        retries: NonZeroU32::MIN,
    }));
    let started = bench.start(&bench.work(spec)).await?;
    while let Some(event) = events.next().await {
        match event? {
            RuntimeEvent::Health { attempt, healthy, output } if attempt == started => {
                ensure!(!healthy, "told to be well");
                ensure!(output.contains("feeling faint"), "the check printed {output:?}");
                return Ok(());
            }
            _ => {}
        }
    }
    Err(Failure("the events ended without it".into()))
}

pub(super) async fn stats_while_it_runs(bench: &Bench<'_>) -> Outcome {
    let runtime = bench.runtime();
    if !runtime.capabilities().stats {
        return Ok(());
    }
    let attempt = bench.run_until_ready(&Program::Sleeps).await?;
    let usage = runtime.stats(attempt).await?;
    ensure!(usage.memory_bytes > 0 && usage.pids > 0, "a running task uses {usage:?}");
    runtime.kill(attempt).await?;
    let kind = runtime.stats(attempt).await.err().map(|error| error.kind);
    ensure!(kind == Some(RuntimeErrorKind::NotFound), "after the end the answer is {kind:?}");
    Ok(())
}

pub(super) async fn out_of_memory_is_told(bench: &Bench<'_>) -> Outcome {
    if !bench.runtime().capabilities().memory_limit {
        return Ok(());
    }
    let spec = bench.harness.program(&Program::EatsMemory).memory_mib(16);
    let attempt = bench.start(&bench.work(spec)).await?;
    let exit = bench.runtime().wait(attempt).await?;
    ensure!(exit.oom_killed && !exit.is_success(), "it ended with {exit:?}");
    Ok(())
}
