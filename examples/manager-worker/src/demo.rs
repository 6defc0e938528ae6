//! `orch demo`: the real programs at work. A manager and three workers are started as separate processes,
//! given a mixed load, and one worker is killed in the middle.

mod cluster;
mod load;
mod report;

use std::{io::IsTerminal as _, time::Duration};

use clap::Args;
use orch_net::http::EventStart;

use self::{cluster::Cluster, load::Load};
use crate::{manager::explain, say::announce};

/// Options of the demonstration.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Use plain processes even where a Docker engine responds.
    #[arg(long)]
    process: bool,
    /// Image with a shell to run the tasks in.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
}

/// Upper bound of the demonstration's duration.
const TIME_LIMIT: Duration = Duration::from_secs(55);

/// Runs the demonstration; an error describes the deviation from the expected result.
pub(crate) async fn run(args: DemoArgs) -> Result<(), String> {
    let ground = cluster::choose_ground(args.process, args.image).await?;
    announce(format_args!("Tasks run as {ground}."));
    let mut cluster = Cluster::start(ground).await?;
    let result = tokio::time::timeout(TIME_LIMIT, show(&mut cluster)).await;
    cluster.stop().await;
    result.unwrap_or_else(|_| Err(format!("the demonstration did not end within {TIME_LIMIT:?}")))
}

async fn show(cluster: &mut Cluster) -> Result<(), String> {
    announce("One manager and three workers are up.");
    let client = cluster.client().clone();
    let mut events = client.events(EventStart::Now).await.map_err(explain)?;
    let load = Load::submit(&client, cluster.ground()).await?;
    announce(format_args!("{} tasks are submitted.", load.len()));

    let mut progress = report::Progress::new(std::io::stderr().is_terminal(), load.ids());
    let (mut moving_on, mut killed) = (None, None);
    while !progress.all_finished() {
        let event = events.next().await.ok_or("the manager went away")?.map_err(explain)?.event;
        progress.note(&event);
        moving_on = load.worker_of_moving_task(&event, &client).await?.or(moving_on);
        // The quick tasks end first, so that only the task that is meant to move has to.
        if progress.are_finished(load.quick())
            && let Some(node) = moving_on.take()
        {
            cluster.kill(&node).await?;
            progress.say(&format!("Worker {node} is killed while it runs the task \"moves\"."));
            killed = Some(node);
        }
    }
    progress.finish();
    if let Some(node) = killed {
        cluster.revive(&node).await?;
        announce(format_args!("Worker {node} is back; what it had left was superseded and is removed."));
    }
    let tasks = load.results(&client).await?;
    announce(report::table(&tasks));
    load.check(&client, &tasks).await?;
    announce("Nothing was lost and nothing ran twice.");
    Ok(())
}
