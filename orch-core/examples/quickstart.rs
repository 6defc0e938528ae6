//! Everything in this process and in memory: submit, wait, read what was printed.
//!
//! `cargo run -p orch-core --example quickstart`

use orch_core::{Orchestrator, model::TaskSpec, state::TaskStatus};

pub fn main() -> orch_core::Result<()> {
    orch_core::block_on(async {
        let orch = Orchestrator::local().await?;
        let spec = TaskSpec::program("hello", "sh")
            .args(["-c", "echo \"hello from $WHERE\""])
            .env("WHERE", "a task");
        let task = orch.submit(spec).await?;
        let done = orch.wait(task).await?;
        let printed = orch.logs(task, false).await?.text().await?;
        assert_eq!((done.status(), printed.as_str()), (TaskStatus::Succeeded, "hello from a task\n"));
        orch.shutdown().await
    })
}
