//! A deployment at work for a minute: a mixed load, one node killed in the middle, and a verdict.

mod load;
mod report;

use std::{io::IsTerminal as _, time::Duration};

use clap::Args;
use futures_util::StreamExt as _;
use orch_net::http::EventStart;

use self::load::Load;
use crate::{
    deployment::Deployment,
    say::announce,
    service::{explain, shutdown},
};

/// Options of a demonstration.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Use plain processes even where a Docker engine responds.
    #[arg(long)]
    pub process: bool,
    /// Image with a shell to run the tasks in.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
}

/// Upper bound of the demonstration's duration.
const TIME_LIMIT: Duration = Duration::from_secs(55);

/// Shows a deployment at work, and stops it.
///
/// # Errors
/// For people: the deviation from the expected result.
pub async fn run(mut deployment: Box<dyn Deployment>) -> Result<(), String> {
    let result = tokio::select! {
        result = tokio::time::timeout(TIME_LIMIT, show(&mut *deployment)) => result
            .unwrap_or_else(|_| Err(format!("the demonstration did not end within {TIME_LIMIT:?}"))),
        requested = shutdown::requested() => Err(requested.map_or_else(explain, |()| "it was ended".into())),
    };
    deployment.stop().await;
    result
}

async fn show(deployment: &mut dyn Deployment) -> Result<(), String> {
    let parts = deployment.parts();
    announce(format_args!("{} and {} are up.", list(&parts.control), list(&parts.nodes)));
    let api = deployment.api();
    let mut events = api.events(EventStart::Now).await.map_err(explain)?;
    let load = Load::submit(&*api, deployment.ground()).await?;
    announce(format_args!("{} tasks are submitted.", load.len()));

    let mut progress = report::Progress::new(std::io::stderr().is_terminal(), load.ids());
    let (mut moving_on, mut killed) = (None, None);
    while !progress.all_finished() {
        let event = events.next().await.ok_or("the events ended")?.map_err(explain)?.event;
        progress.note(&event);
        moving_on = load.node_of_moving_task(&event, &*api).await?.or(moving_on);
        // The others end first, so that only the task that is meant to move has to.
        if progress.are_finished(load.others())
            && let Some(node) = moving_on.take()
        {
            deployment.kill(&node).await?;
            progress.say(&format!("{node} is killed while it runs the task \"moves\"."));
            killed = Some(node);
        }
    }
    progress.finish();
    if let Some(node) = killed {
        deployment.heal(&node).await?;
        announce(format_args!("{node} is back; what it had left was superseded and is removed."));
    }
    let tasks = load.results(&*api).await?;
    announce(report::results(&tasks));
    load.check(&*api, &tasks).await?;
    announce("Nothing was lost and nothing ran twice.");
    Ok(())
}

/// Names in a sentence.
fn list(names: &[String]) -> String {
    match names {
        [] => "nothing".into(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    }
}
