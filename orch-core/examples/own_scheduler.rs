//! A policy of your own: each task goes to the open node with the fewest tasks.
//!
//! `cargo run -p orch-core --example own_scheduler`

use std::{collections::BTreeMap, sync::Arc};

use orch_core::{
    Orchestrator,
    model::{Held, TaskSpec},
    scheduler::{NodeView, Pending, Placement, Plan, Scheduler, Snapshot},
    state::TaskStatus,
};

/// Spreads tasks over the nodes. Like every policy a pure function of what it is shown.
#[derive(Debug)]
struct FewestTasks;

impl Scheduler for FewestTasks {
    fn name(&self) -> &'static str {
        "fewest-tasks"
    }

    fn plan(&self, snapshot: Snapshot<'_>, pending: &[Pending<'_>]) -> Plan {
        let mut plan = Plan::default();
        // What this plan places counts as well.
        let mut nodes: Vec<NodeView> = snapshot.nodes.to_vec();
        for task in pending {
            let fits = nodes.iter_mut().filter(|node| node.accepts(task.spec));
            let Some(node) = fits.min_by_key(|node| (node.tasks, node.id().clone())) else { continue };
            node.held.take(&task.spec.resources);
            node.tasks += 1;
            plan.placements.push(Placement { task: task.task, node: node.id().clone() });
        }
        plan
    }
}

pub fn main() -> orch_core::Result<()> {
    orch_core::block_on(async {
        let orch = Orchestrator::builder().scheduler(Arc::new(FewestTasks)).local_node()?.build().await?;
        let tasks = orch.submit_all((0..4).map(|n| TaskSpec::program(format!("t{n}"), "true"))).await?;
        let mut ends: BTreeMap<TaskStatus, u32> = BTreeMap::new();
        for task in tasks {
            *ends.entry(orch.wait(task).await?.status()).or_default() += 1;
        }
        assert_eq!(ends, BTreeMap::from([(TaskStatus::Succeeded, 4)]));
        assert!(orch.nodes().iter().all(|node| node.held == Held::default()), "everything was given back");
        orch.shutdown().await
    })
}
