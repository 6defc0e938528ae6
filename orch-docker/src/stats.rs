//! Resource usage of a container, as `docker stats` computes it.

use bollard::{models::ContainerStatsResponse, query_parameters::StatsOptionsBuilder};
use futures_util::StreamExt;
use orch_core::runtime::Usage;

use crate::{clock::EngineTime, container::Container, engine::Engine, errors::EngineError};

/// Takes one reading; `None` when the container has ended meanwhile. Some engines take a second for it.
pub(crate) async fn read(engine: &Engine, container: &Container) -> Result<Option<Usage>, EngineError> {
    let options = StatsOptionsBuilder::default().stream(false).one_shot(true).build();
    let mut readings = engine.docker.stats(&container.id, Some(options)).boxed();
    match engine.ask(async { readings.next().await.transpose() }).await? {
        // For a container that does not run the engine returns zeros without a time of reading.
        Some(reading) if reading.read.as_deref().and_then(EngineTime::parse).is_none() => Ok(None),
        Some(reading) => Ok(Some(usage(&reading))),
        None => Err(EngineError::Gone("it closed the connection".into())),
    }
}

fn usage(reading: &ContainerStatsResponse) -> Usage {
    let cpu = reading.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    let memory = reading.memory_stats.as_ref();
    // Page cache that the kernel can drop at any time is not usage. Named by cgroups of version 1 and 2.
    let droppable = memory
        .and_then(|memory| memory.stats.as_ref())
        .and_then(|stats| stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")))
        .copied()
        .unwrap_or_default();
    Usage {
        cpu_ms: cpu.unwrap_or_default() / 1_000_000,
        memory_bytes: memory.and_then(|memory| memory.usage).unwrap_or_default().saturating_sub(droppable),
        pids: reading.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or_default(),
    }
}
