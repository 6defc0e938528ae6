//! [`Environment`]: clock, randomness and background tasks that the engine gets from its host.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::model::Timestamp;

/// Wall clock, randomness and background work of one process. An orchestrator, its consensus and an agent
/// that are given one of their own can run many to a thread in virtual time, on a tokio runtime whose clock
/// is paused: the same seed brings the same ids, and a process ends at once when all of its work is aborted.
///
/// Durations are not in it: they are measured by tokio's clock. Neither is work that ends with the work that
/// started it. Runtimes, stores and transports have clocks and threads of their own.
pub trait Environment: fmt::Debug + Send + Sync + 'static {
    /// Wall clock. It may step in both directions.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Random bits, for ids that nobody else may have.
    fn random(&self) -> u128 {
        Uuid::new_v4().as_u128()
    }

    /// Runs work in the background until it ends or is aborted. Called within a tokio runtime.
    fn spawn(&self, work: BoxFuture<'static, ()>) -> JoinHandle<()> {
        tokio::spawn(work)
    }
}

/// Clock and randomness of the operating system, and the tokio runtime of the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Environment for System {}

impl System {
    /// The default wherever an environment can be given.
    #[must_use]
    pub fn shared() -> Arc<dyn Environment> {
        Arc::new(Self)
    }
}
