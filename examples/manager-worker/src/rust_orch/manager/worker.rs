//! Agent in the place of a worker, which has none: it keeps the node in the cluster and answers for what the
//! worker cannot be told.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use orch_core::{
    engine::{Assignments, AssignmentsQuery, LinkError, Registration},
    model::{
        AttemptEnd, IncarnationId, InstanceId, NodeId, NodeSpec, Report, ReportKind, Resources, WorkKind,
    },
};
use sha2::{Digest, Sha256};
use tokio::time::MissedTickBehavior;
use tracing::warn;

use super::places;
use super::{App, Manager};

const TRY_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Keeps the worker's node in the cluster. Never returns.
pub(super) async fn keep(app: App, node: NodeId) {
    loop {
        if let Err(error) = session(&app, &node).await {
            warn!(%node, %error, "a rust-orch worker's node is not in the cluster; trying again");
        }
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
    }
}

async fn session(app: &Manager, node: &NodeId) -> Result<(), LinkError> {
    let spec = spec(node, app.config.max_tasks);
    // As the instance, the same in each incarnation of the server, so that the worker's updates go on in the
    // same session.
    let incarnation = IncarnationId::from_bytes(*spec.instance.as_bytes());
    // What the worker has nobody knows; what it was given it has.
    let registration = Registration { spec, incarnation, number: 1, held: Vec::new() };
    let registered = app.link.register(registration).await?;
    let session = registered.session;
    let mut beats = tokio::time::interval(registered.heartbeat_interval);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut query = AssignmentsQuery { at_least: registered.revision, ..AssignmentsQuery::default() };
    loop {
        tokio::select! {
            _ = beats.tick() => {
                app.link.heartbeat(&session).await?;
                places::free(app, node, &session).await?;
            }
            told = app.link.assignments(&session, query) => {
                let told = told?;
                // Its specs are not needed: what the worker should run it is told when it asks.
                query = AssignmentsQuery::after(told.cursor, told.revision);
                let reports = stops(node, &told);
                if !reports.is_empty() {
                    app.link.report(&session, reports).await?;
                }
            }
        }
    }
}

/// The worker cannot be told to stop, so that is said in its place.
fn stops(node: &NodeId, told: &Assignments) -> Vec<Report> {
    let stopped =
        |attempt| Report { attempt, node: node.clone(), kind: ReportKind::Ended(AttemptEnd::Stopped) };
    told.stop.iter().copied().map(stopped).collect()
}

/// The node that stands for the worker. Nobody knows what the machine has: it is taken to be large, and the
/// number of tasks is bounded instead.
fn spec(node: &NodeId, max_tasks: Option<NonZeroU32>) -> NodeSpec {
    const CORES: u64 = 1024;
    const MEMORY_BYTES: u64 = 4 << 40;
    let digest = Sha256::new().chain_update(b"orch legacy worker\0").chain_update(node.as_str()).finalize();
    let mut instance = [0; 16];
    instance.copy_from_slice(&digest[..16]);
    // The same in each incarnation of the server, so that the node keeps its tasks.
    let instance = InstanceId::from_bytes(instance);
    let capacity = Resources::new(CORES * 1000, MEMORY_BYTES);
    NodeSpec {
        max_tasks: max_tasks.map_or(NodeSpec::DEFAULT_MAX_TASKS, NonZeroU32::get),
        labels: BTreeMap::from([("orch.legacy".into(), "true".into())]),
        ..NodeSpec::new(node.clone(), instance, capacity, [WorkKind::PlainImage])
    }
}
