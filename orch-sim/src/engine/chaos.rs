//! Faults of a simulated cluster, one after the other.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{oracle::Violation, world::World};

const NODES: [&str; 2] = ["node-a", "node-b"];

/// The nodes that are there from the beginning.
pub(super) fn nodes() -> &'static [&'static str] {
    &NODES
}

/// Makes faults until `until`.
pub(super) async fn run(world: Arc<World>, until: Instant) -> Result<(), Violation> {
    while Instant::now() < until {
        sleep(world.random(|random| random.duration(Duration::from_millis(200), Duration::from_secs(3))))
            .await;
        let machine = pick(&world, world.machines());
        let member = pick(&world, world.members());
        match world.random(|random| random.below(10)) {
            0 | 1 => cut_off(&world, machine, Duration::from_secs(3)).await,
            2 => cut_off(&world, machine, Duration::from_secs(14)).await,
            3 | 4 => lag(&world, member).await,
            5 | 6 => restart_agent(&world, machine).await,
            7 => restart_member(&world, member).await?,
            8 => replace_machine(&world).await,
            _ => restart_with_other_clock(&world, member).await?,
        }
    }
    Ok(())
}

/// Ends all faults.
pub(super) async fn heal(world: &Arc<World>) -> Result<(), Violation> {
    world.calm_down();
    for member in 0..world.members() {
        world.lag(member).set_watch(Duration::ZERO);
        world.lag(member).set_scan(Duration::ZERO);
        if world.member(member).is_none() {
            start(world, member, Duration::ZERO).await?;
        }
    }
    for machine in 0..world.machines() {
        world.cut_off(machine, false);
        world.start_agent(machine);
    }
    Ok(())
}

fn pick(world: &World, count: usize) -> usize {
    usize::try_from(world.random(|random| random.below(count as u64))).unwrap_or(0)
}

async fn cut_off(world: &World, machine: usize, most: Duration) {
    world.cut_off(machine, true);
    sleep(world.random(|random| random.duration(Duration::from_millis(500), most))).await;
    world.cut_off(machine, false);
}

async fn lag(world: &World, member: usize) {
    let lag = world.random(|random| random.duration(Duration::from_millis(100), Duration::from_secs(2)));
    world.lag(member).set_watch(lag);
    sleep(world.random(|random| random.duration(Duration::from_secs(1), Duration::from_secs(6)))).await;
    world.lag(member).set_watch(Duration::ZERO);
}

async fn restart_agent(world: &Arc<World>, machine: usize) {
    match world.random(|random| random.chance(500)) {
        true => world.kill_agent(machine),
        false => world.stop_agent(machine).await,
    }
    sleep(world.random(|random| random.duration(Duration::ZERO, Duration::from_secs(4)))).await;
    world.start_agent(machine);
}

/// Another machine takes over the name of a node that is cut off for good, as far as the cluster can see;
/// then the first one is back.
async fn replace_machine(world: &Arc<World>) {
    const MOST: usize = 4;
    if world.machines() >= MOST {
        return;
    }
    let first = pick(world, NODES.len());
    world.cut_off(first, true);
    sleep(Duration::from_secs(8)).await;
    let instance = u8::try_from(10 + world.machines()).unwrap_or(u8::MAX);
    world.add_machine(NODES[first], instance);
    sleep(world.random(|random| random.duration(Duration::from_millis(100), Duration::from_secs(4)))).await;
    world.cut_off(first, false);
}

/// Starts a member while another one decides without a break.
async fn restart_member(world: &Arc<World>, member: usize) -> Result<(), Violation> {
    world.stop_member(member);
    sleep(world.random(|random| random.duration(Duration::ZERO, Duration::from_secs(4)))).await;
    world.lag(member).set_scan(Duration::from_millis(4));
    let busy = keep_busy(world.clone());
    let result = start(world, member, Duration::ZERO).await;
    busy.abort();
    world.lag(member).set_scan(Duration::ZERO);
    result
}

/// Starts a member whose clock is ahead, and lets it decide something; sometimes while no member with a right
/// clock is up.
async fn restart_with_other_clock(world: &Arc<World>, member: usize) -> Result<(), Violation> {
    world.stop_member(member);
    let others: Vec<_> = match world.random(|random| random.chance(500)) {
        true => (0..world.members()).filter(|other| world.member(*other).is_some()).collect(),
        false => Vec::new(),
    };
    others.iter().for_each(|other| world.stop_member(*other));
    let ahead = world.random(|random| random.duration(Duration::from_secs(1), Duration::from_secs(600)));
    start(world, member, ahead).await?;
    if let Some(orchestrator) = world.member(member) {
        // Whatever it is: it carries the clock.
        let _ = orchestrator.cordon(&orch_core::model::NodeId::new("nobody").expect("a valid name")).await;
    }
    world.stop_member(member);
    for member in others.into_iter().chain([member]) {
        start(world, member, Duration::ZERO).await?;
    }
    Ok(())
}

async fn start(world: &Arc<World>, member: usize, ahead: Duration) -> Result<(), Violation> {
    let built = world.start_member(member, ahead).await;
    built.map_err(|error| Violation(format!("member {member} cannot start: {error:?}")))
}

fn keep_busy(world: Arc<World>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            sleep(Duration::from_millis(3)).await;
            if let Some(orchestrator) = world.orchestrator() {
                let unknown = orch_core::model::NodeId::new("nobody").expect("a valid name");
                let _ = orchestrator.cordon(&unknown).await;
            }
        }
    })
}
