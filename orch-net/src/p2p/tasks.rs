//! Tasks of a transport. None outlives it.

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    task::{AbortHandle, JoinSet},
};

#[derive(Debug)]
pub(super) struct Tasks {
    runtime: Handle,
    running: Mutex<Option<Running>>,
}

/// Running tasks. Dropping it aborts them all.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Tasks of connections, which end by themselves when the transport closes.
    pub(super) connections: JoinSet<()>,
    pub(super) others: JoinSet<()>,
}

impl Tasks {
    /// No tasks yet; they will run on the runtime of the caller.
    pub(super) fn new() -> Self {
        Self { runtime: Handle::current(), running: Mutex::new(Some(Running::default())) }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        self.spawn_in(|running| &mut running.others, task)
    }

    pub(super) fn spawn_connection(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_in(|running| &mut running.connections, task);
    }

    /// Takes all tasks out. None can start after that.
    pub(super) fn take(&self) -> Option<Running> {
        self.running.lock().take()
    }

    fn spawn_in(
        &self,
        set: impl FnOnce(&mut Running) -> &mut JoinSet<()>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        let mut running = self.running.lock();
        let set = set(running.as_mut()?);
        while set.try_join_next().is_some() {}
        Some(set.spawn_on(task, &self.runtime))
    }
}
