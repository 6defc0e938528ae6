//! [`run`]: one run of a simulated cluster.

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use orch_core::{
    engine::{AgentState, TaskView},
    fault::EngineFault,
    model::{
        AttemptId, CommandId, Constraint, Exit, KeptAttempt, NodeId, NodeLossPolicy, RestartPolicy,
        SharedSpec, TaskId, TaskSpec,
    },
    runtime::{FoundState, Runtime as _},
    state::{NewTask, TaskStatus},
    testkit::SimulatedRuntime,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use super::{
    chaos,
    oracle::{Oracle, Violation},
    probe,
    world::World,
};

/// Parameters of one run.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Everything that is left to chance follows from it, but for the order in which tasks of the executor
    /// run.
    pub seed: u64,
    /// Number of submitted tasks.
    pub tasks: u64,
    /// Time of the faults, in virtual time.
    pub faults_for: Duration,
    /// A mistake of the engine's; needs a build that can make it.
    pub fault: Option<EngineFault>,
}

impl Scenario {
    /// The usual run: 14 tasks, half a minute of faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, tasks: 14, faults_for: Duration::from_secs(30), fault: None }
    }
}

/// Counts of a run without a violation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Attempts that were started.
    pub starts: usize,
    /// Tasks that succeeded.
    pub succeeded: usize,
}

/// Longer than any task takes once the faults are over.
const DEADLINE: Duration = Duration::from_secs(240);

/// Runs one cluster, in virtual time.
///
/// # Errors
/// The first thing that must never happen and did.
pub fn run(scenario: Scenario) -> Result<Summary, Violation> {
    #[cfg(orch_seeded_faults)]
    EngineFault::make(scenario.fault);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| Violation(format!("no runtime: {error}")))?;
    runtime.block_on(live(scenario))
}

async fn live(scenario: Scenario) -> Result<Summary, Violation> {
    let world = World::new(scenario.seed, 2);
    for member in 0..world.members() {
        let built = world.start_member(member, Duration::ZERO).await;
        built.map_err(|error| Violation(format!("member {member} cannot start: {error:?}")))?;
    }
    for (number, node) in (1..).zip(chaos::nodes()) {
        world.add_machine(node, number);
    }
    let until = Instant::now() + scenario.faults_for;
    let oracle = Arc::new(Mutex::new(Oracle::default()));
    let submitted = tokio::spawn(submit(world.clone(), scenario, until));
    let work = Aborting(tokio::spawn(end_attempts(world.clone(), oracle.clone())));
    chaos::run(world.clone(), until).await?;
    chaos::heal(&world).await?;
    let tasks = submitted.await.map_err(|error| Violation(format!("submitting failed: {error}")))?;
    let ended = all_end(&world, &tasks).await;
    drop(work);
    check(&world, &lock(&oracle), &tasks, ended)?;
    nothing_is_left(&world).await?;
    a_short_loss_is_survived(&world).await?;
    probe::a_member_that_is_behind_answers_as_the_others(&world).await?;
    let runtimes = world.runtimes();
    Oracle::check_starts(&runtimes)?;
    let starts = runtimes.iter().map(|runtime| runtime.starts().len()).sum();
    let succeeded =
        |task: &&TaskId| state(&world, **task).is_some_and(|view| view.status() == TaskStatus::Succeeded);
    let succeeded = tasks.iter().filter(succeeded).count();
    Ok(Summary { starts, succeeded })
}

/// Submits all tasks at some time or other; says which.
async fn submit(world: Arc<World>, scenario: Scenario, until: Instant) -> Vec<TaskId> {
    let mut tasks = Vec::new();
    let pause = scenario.faults_for / u32::try_from(scenario.tasks.max(1)).unwrap_or(u32::MAX);
    for number in 0..scenario.tasks {
        let id = TaskId::from_bytes((u128::from(number) + 1).to_be_bytes());
        let spec = SharedSpec::from(spec(&world, number));
        // Any member may get it: repeating the command with its id is harmless.
        loop {
            let new = NewTask { id, spec: spec.clone() };
            if let Some(orchestrator) = world.orchestrator()
                && orchestrator.submit_as(CommandId::from_bytes(*id.as_bytes()), vec![new]).await.is_ok()
            {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        tasks.push(id);
        if Instant::now() < until {
            sleep(world.random(|random| random.duration(Duration::ZERO, pause * 2))).await;
        }
    }
    tasks
}

fn spec(world: &World, number: u64) -> TaskSpec {
    world.random(|random| {
        let mut spec = TaskSpec::program(format!("task-{number}"), "hang").cpu_millis(500);
        match random.below(8) {
            0 | 1 => spec = spec.restart(RestartPolicy::Never),
            2 | 3 => spec = spec.max_attempts(3).backoff(Duration::from_millis(500)),
            4 => {
                let wait = Duration::from_secs(5);
                spec.node_loss = Some(Box::new(NodeLossPolicy { wait, ..NodeLossPolicy::default() }));
            }
            5 => {
                let keep = KeptAttempt::Original;
                spec.node_loss = Some(Box::new(NodeLossPolicy { keep, ..NodeLossPolicy::default() }));
            }
            _ => {}
        }
        if random.chance(200) {
            spec.constraints.push(Constraint::Node { node: node(chaos::nodes()[0]) });
        }
        spec
    })
}

fn node(name: &str) -> NodeId {
    NodeId::new(name).expect("a valid name")
}

/// Ends attempts that run, sooner or later, well or not.
async fn end_attempts(world: Arc<World>, oracle: Arc<Mutex<Oracle>>) {
    let mut fates: BTreeMap<AttemptId, (Instant, i32)> = BTreeMap::new();
    loop {
        sleep(Duration::from_millis(20)).await;
        for runtime in world.runtimes() {
            let found = runtime.list().await.unwrap_or_default();
            let running = found.iter().filter(|found| found.state == FoundState::Running);
            for attempt in running.map(|found| found.attempt) {
                let (at, code) = *fates.entry(attempt).or_insert_with(|| {
                    world.random(|random| {
                        let most = if random.chance(500) { 200 } else { 9000 };
                        let time = random.duration(Duration::ZERO, Duration::from_millis(most));
                        (Instant::now() + time, i32::from(random.chance(250)))
                    })
                });
                if Instant::now() >= at {
                    lock(&oracle).ended(attempt, code);
                    runtime.finish(attempt, Exit::from_code(code));
                }
            }
        }
    }
}

fn state(world: &World, task: TaskId) -> Option<TaskView> {
    world.member(0).and_then(|orchestrator| orchestrator.get(task))
}

async fn all_end(world: &World, tasks: &[TaskId]) -> bool {
    let ended = async {
        while !tasks.iter().all(|task| state(world, *task).is_some_and(|view| view.record.is_finished())) {
            sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.is_ok()
}

fn check(world: &World, oracle: &Oracle, tasks: &[TaskId], ended: bool) -> Result<(), Violation> {
    let runtimes = world.runtimes();
    Oracle::check_starts(&runtimes)?;
    for task in tasks {
        let view = state(world, *task).ok_or_else(|| Violation(format!("task {task} is missing")))?;
        oracle.check_task(&view, &runtimes)?;
    }
    match ended {
        true => Ok(()),
        false => Err(Violation("a task ended too late".into())),
    }
}

async fn nothing_is_left(world: &World) -> Result<(), Violation> {
    let emptied = async {
        for runtime in world.runtimes() {
            while !runtime.list().await.unwrap_or_default().is_empty() {
                sleep(Duration::from_millis(250)).await;
            }
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), emptied).await.is_ok() {
        return Ok(());
    }
    let mut left = String::from("work is left on a machine:");
    for (machine, runtime) in world.runtimes().iter().enumerate() {
        let found = runtime.list().await.unwrap_or_default();
        let _ = write!(left, " machine {machine} ({:?}) has {found:?};", world.agent_state(machine));
    }
    Err(Violation(left))
}

/// A pinned task whose node is lost for a moment goes on.
async fn a_short_loss_is_survived(world: &Arc<World>) -> Result<(), Violation> {
    // A machine that waits for the name of a lost node would get it. Each has to have found out first which
    // it is.
    sleep(Duration::from_secs(10)).await;
    for machine in 0..world.machines() {
        while matches!(world.agent_state(machine), Some(AgentState::Connecting(_))) {
            sleep(Duration::from_millis(250)).await;
        }
        if world.agent_state(machine) != Some(AgentState::Registered) {
            world.stop_agent(machine).await;
        }
    }
    let task = TaskId::from_bytes([0xff; 16]);
    let mut pinned = TaskSpec::program("pinned", "hang");
    pinned.constraints.push(Constraint::Node { node: node(chaos::nodes()[1]) });
    let orchestrator = world.member(0).ok_or_else(|| Violation("member 0 is down".into()))?;
    let failed = |what: &str| Violation(format!("{what}: {:?}", orchestrator.get(task)));
    let new = NewTask { id: task, spec: pinned.into() };
    let submitted = orchestrator.submit_as(CommandId::from_bytes([0xff; 16]), vec![new]).await;
    submitted.map_err(|error| Violation(format!("no submission is taken: {error:?}")))?;
    // Whether it runs is seen by one member only, so the decided states are asked for.
    let becomes = async |status: TaskStatus| {
        let becomes = async {
            while orchestrator.get(task).is_none_or(|view| view.record.status() != status) {
                sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(DEADLINE, becomes).await.map_err(|_| failed(status.as_str()))
    };
    becomes(TaskStatus::Placed).await?;
    let runtimes = world.runtimes();
    let machine = async {
        loop {
            let runs = |runtime: &SimulatedRuntime| runtime.starts().iter().any(|start| start.task == task);
            if let Some(machine) = runtimes.iter().position(runs) {
                return machine;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    let machine = tokio::time::timeout(DEADLINE, machine).await.map_err(|_| failed("it runs nowhere"))?;
    world.cut_off(machine, true);
    becomes(TaskStatus::Pending).await?;
    world.cut_off(machine, false);
    becomes(TaskStatus::Placed).await?;
    let view = orchestrator.get(task).ok_or_else(|| failed("it is missing"))?;
    if view.record.attempts_made != 1 {
        return Err(failed("an attempt that outlived the loss of its node was given up"));
    }
    let attempt = view.record.current_attempt().ok_or_else(|| failed("it is not placed"))?;
    runtimes[machine].finish(attempt, Exit::from_code(0));
    becomes(TaskStatus::Succeeded).await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// A task that ends with its owner.
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}
