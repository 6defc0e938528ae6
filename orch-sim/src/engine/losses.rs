//! [`count_losses`]: number of times that nodes that are well are taken for lost.

use std::time::Duration;

use orch_core::model::NodeState;
use tokio::time::{Instant, sleep};

use super::{
    oracle::Violation,
    world::{Network, World},
};

/// Nodes on a network that loses messages, whose machines stand still now and then.
#[derive(Clone, Copy, Debug)]
pub struct Losses {
    /// Source of all chance.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: u8,
    /// Members over one store. The nodes talk to them in turns, each to one only.
    pub members: u8,
    /// Calls of a thousand that are lost, and as many answers.
    pub lost_per_thousand: u32,
    /// Time for which a node receives and sends nothing, once a minute.
    pub pause: Duration,
    /// Length of the run, in virtual time.
    pub time: Duration,
}

/// Number of losses of nodes.
///
/// # Errors
/// If the cluster cannot start.
pub fn count_losses(setting: Losses) -> Result<usize, Violation> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| Violation(format!("no runtime: {error}")))?;
    runtime.block_on(live(setting))
}

async fn live(setting: Losses) -> Result<usize, Violation> {
    let members = usize::from(setting.members.max(1));
    let world = World::new(setting.seed, members);
    world.set_network(Network::losing(setting.lost_per_thousand));
    for member in 0..members {
        let built = world.start_member(member, Duration::ZERO).await;
        built.map_err(|error| Violation(format!("a member cannot start: {error:?}")))?;
    }
    let machine = |number| {
        let machine = world.add_machine(&format!("node-{number}"), number);
        world.turn_to(machine, usize::from(number) % members);
        machine
    };
    let machines: Vec<_> = (0..setting.nodes).map(machine).collect();
    let orchestrator = world.member(0).ok_or_else(|| Violation("the member is down".into()))?;
    let mut events = orchestrator.events();
    let until = Instant::now() + setting.time;
    let pauses = async {
        while Instant::now() < until {
            for machine in &machines {
                let minute = Duration::from_secs(60) / u32::from(setting.nodes.max(1));
                let (world, pause) = (world.clone(), setting.pause);
                let machine = *machine;
                tokio::spawn(async move {
                    world.cut_off(machine, true);
                    sleep(pause).await;
                    world.cut_off(machine, false);
                });
                sleep(minute).await;
            }
        }
    };
    let mut losses = 0;
    let counting = async {
        while let Some(Ok(event)) = events.next().await {
            if let orch_core::engine::EventKind::Node(record) = event.kind {
                losses += usize::from(record.state == NodeState::Lost);
            }
        }
    };
    tokio::select! {
        () = pauses => {}
        () = counting => return Err(Violation("the events ended".into())),
    }
    Ok(losses)
}
