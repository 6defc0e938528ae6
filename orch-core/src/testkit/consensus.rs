//! Conformance suite of [`Consensus`], run with a machine that records its input.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::{Mutex, MutexGuard};

use crate::{
    consensus::{Consensus, ConsensusError, Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::{Durability, Key, Revision, Write},
};

/// Factory of the groups that the suite works on.
#[async_trait]
pub trait ConsensusHarness: Send + Sync {
    /// Returns the members of the group called `name`, not started: a new group the first time. The suite
    /// shuts all members down before it asks for the same group again, and does that only where commits are
    /// durable.
    async fn group(&self, name: &str) -> Vec<Arc<dyn Consensus>>;
}

/// Longer than any case takes on a slow machine, so that a hang is reported with the name of its case.
const CASE_TIMEOUT: Duration = Duration::from_secs(120);

/// Runs every case that the backend's capabilities require.
///
/// # Panics
/// When the backend breaks the contract.
pub async fn run_all(harness: &dyn ConsensusHarness) {
    case("each_proposal_is_decided_once_in_one_order", each_proposal_is_decided_once_in_one_order(harness))
        .await;
    case("a_barrier_shows_what_was_answered", a_barrier_shows_what_was_answered(harness)).await;
    case("revisions_never_go_back", revisions_never_go_back(harness)).await;
    case("too_large_commands_are_refused", too_large_commands_are_refused(harness)).await;
    case("starting_twice_is_refused", starting_twice_is_refused(harness)).await;
    case("shutting_down_finishes_what_was_accepted", shutting_down_finishes_what_was_accepted(harness)).await;
    case("a_restart_finds_what_was_answered", a_restart_finds_what_was_answered(harness)).await;
}

async fn case(name: &str, body: impl Future<Output = ()>) {
    assert!(tokio::time::timeout(CASE_TIMEOUT, body).await.is_ok(), "{name} hangs");
}

/// A started member with the records of its machine.
struct Member {
    consensus: Arc<dyn Consensus>,
    written: Arc<Mutex<Vec<Bytes>>>,
}

impl Member {
    fn written(&self) -> Vec<Bytes> {
        lock(&self.written).clone()
    }

    /// Proposes `command` and returns its revision and sequence number.
    async fn propose(&self, command: impl Into<Bytes>) -> Result<(Revision, u64), ConsensusError> {
        let committed = self.consensus.propose(command.into()).await?;
        let place = committed.outcome[..].try_into().map(u64::from_be_bytes);
        Ok((committed.revision, place.expect("the outcome is the machine's")))
    }
}

async fn start(harness: &dyn ConsensusHarness, name: &str) -> Vec<Member> {
    let mut members = Vec::new();
    for consensus in harness.group(name).await {
        let written = Arc::new(Mutex::new(Vec::new()));
        let started = consensus.start(Box::new(Recorder::new(written.clone()))).await;
        assert!(started.is_ok(), "{name}: a member does not start: {started:?}");
        members.push(Member { consensus, written });
    }
    assert!(!members.is_empty(), "the harness gives no members");
    members
}

async fn shut_down(members: Vec<Member>) {
    for member in members {
        member.consensus.shutdown().await;
    }
}

/// However many propose at a time, every member records each command once, at the sequence number of its
/// outcome.
pub async fn each_proposal_is_decided_once_in_one_order(harness: &dyn ConsensusHarness) {
    let members = start(harness, "order").await;
    let proposals = (0..200usize).map(|number| {
        let member = &members[number % members.len()];
        async move { (number, member.propose(number.to_string()).await) }
    });
    let mut places = BTreeMap::new();
    for (number, answer) in join_all(proposals).await {
        let (_, place) = answer.unwrap_or_else(|error| panic!("proposal {number} failed: {error}"));
        assert_eq!(places.insert(place, number.to_string()), None, "two proposals share place {place}");
    }
    let expected: Vec<Bytes> = places.into_values().map(Bytes::from).collect();
    for member in &members {
        let barrier = member.consensus.read_barrier().await;
        assert!(barrier.is_ok(), "{barrier:?}");
        assert_eq!(member.written(), expected, "every member has each command once, where its outcome says");
    }
    shut_down(members).await;
}

/// Decisions that were acknowledged before a barrier began are visible after it, on any member.
pub async fn a_barrier_shows_what_was_answered(harness: &dyn ConsensusHarness) {
    let members = start(harness, "barrier").await;
    for number in 0..20usize {
        let (proposer, reader) = (&members[number % members.len()], &members[(number + 1) % members.len()]);
        let (revision, place) = proposer.propose(number.to_string()).await.expect("the proposal is decided");
        let seen = reader.consensus.read_barrier().await.expect("the barrier is passed");
        assert!(seen >= revision, "the barrier is at {seen}, the proposal was at {revision}");
        let at = usize::try_from(place).expect("a small number");
        assert_eq!(reader.written().get(at), Some(&Bytes::from(number.to_string())));
    }
    shut_down(members).await;
}

/// A later proposal never has an earlier revision, and the status follows.
pub async fn revisions_never_go_back(harness: &dyn ConsensusHarness) {
    let members = start(harness, "revisions").await;
    let mut last = Revision::ZERO;
    for number in 0..20usize {
        let (revision, _) = members[0].propose(number.to_string()).await.expect("the proposal is decided");
        assert!(revision >= last && revision > Revision::ZERO, "{revision} comes after {last}");
        last = revision;
    }
    assert!(members[0].consensus.status().applied >= last);
    assert!(members[0].consensus.now() > Timestamp::ZERO);
    shut_down(members).await;
}

/// A command beyond the declared size is rejected and not decided.
pub async fn too_large_commands_are_refused(harness: &dyn ConsensusHarness) {
    let members = start(harness, "size").await;
    let max = members[0].consensus.capabilities().max_command_bytes;
    let refused = members[0].propose(vec![b'x'; max + 1]).await;
    assert!(matches!(refused, Err(ConsensusError::TooLarge { .. })), "{refused:?}");
    assert_eq!(members[0].written(), Vec::<Bytes>::new());
    shut_down(members).await;
}

/// A member has one machine: a second start is rejected.
pub async fn starting_twice_is_refused(harness: &dyn ConsensusHarness) {
    let members = start(harness, "twice").await;
    let again = members[0].consensus.start(Box::new(Recorder::new(Arc::default()))).await;
    assert!(matches!(again, Err(ConsensusError::Lifecycle(_))), "{again:?}");
    shut_down(members).await;
}

/// Acknowledged proposals were recorded; later ones fail because of the shutdown; shutting down twice is no
/// error.
pub async fn shutting_down_finishes_what_was_accepted(harness: &dyn ConsensusHarness) {
    let members = start(harness, "shutdown").await;
    let member = &members[0];
    let proposals = join_all(
        (0..50usize).map(|number| async move { (number, member.propose(number.to_string()).await) }),
    );
    let (answers, ()) = tokio::join!(proposals, member.consensus.shutdown());
    let written: BTreeSet<Bytes> = member.written().into_iter().collect();
    for (number, answer) in answers {
        if answer.is_ok() {
            assert!(
                written.contains(&Bytes::from(number.to_string())),
                "{number} was answered and is not there"
            );
        }
    }
    let late = member.propose("late").await;
    assert!(matches!(late, Err(ConsensusError::Stopped)), "{late:?}");
    shut_down(members).await;
}

/// A restarted group has every acknowledged decision, where commits are durable, and continues after it.
pub async fn a_restart_finds_what_was_answered(harness: &dyn ConsensusHarness) {
    let members = start(harness, "restart").await;
    if members[0].consensus.capabilities().durability == Durability::Memory && !harness_keeps(harness).await {
        return shut_down(members).await;
    }
    for number in 0..10usize {
        members[0].propose(number.to_string()).await.expect("the proposal is decided");
    }
    let before = members[0].written();
    shut_down(members).await;
    let members = start(harness, "restart").await;
    assert_eq!(members[0].written(), before, "a restart finds everything");
    let (_, place) = members[0].propose("next").await.expect("the proposal is decided");
    assert_eq!(place, before.len() as u64, "it goes on where it was");
    shut_down(members).await;
}

/// Whether a group keeps its state when it is opened again: a harness may keep state that is in memory.
async fn harness_keeps(harness: &dyn ConsensusHarness) -> bool {
    let members = start(harness, "kept").await;
    members[0].propose("kept").await.expect("the proposal is decided");
    shut_down(members).await;
    let members = start(harness, "kept").await;
    let kept = !members[0].written().is_empty();
    shut_down(members).await;
    kept
}

/// Machine that records every command; the outcome is its sequence number.
#[derive(Debug)]
struct Recorder {
    commands: Vec<Bytes>,
    settled: usize,
    time: Timestamp,
    written: Arc<Mutex<Vec<Bytes>>>,
}

impl Recorder {
    fn new(written: Arc<Mutex<Vec<Bytes>>>) -> Self {
        Self { commands: Vec::new(), settled: 0, time: Timestamp::ZERO, written }
    }

    fn take_in(&mut self, writes: &[Write]) -> Result<(), MachineError> {
        for write in writes {
            let Some(place) = write.key.as_str().strip_prefix(PREFIX) else { continue };
            let bad = || MachineError::malformed(format!("record {}", write.key), "it is not ours");
            let place: usize = place.parse().map_err(|_| bad())?;
            if place >= self.commands.len() {
                self.commands.resize(place + 1, Bytes::new());
            }
            self.commands[place] = write.value.clone().ok_or_else(bad)?;
        }
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        self.settled = self.commands.len();
        lock(&self.written).clone_from(&self.commands);
    }
}

const PREFIX: &str = "recorded/";

impl StateMachine for Recorder {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        self.time = self.time.max(context.time);
        let (place, command) = (self.commands.len(), Bytes::copy_from_slice(command));
        self.commands.push(command.clone());
        let key = Key::new(format!("{PREFIX}{place:08}")).expect("a valid key");
        let outcome = Bytes::copy_from_slice(&(place as u64).to_be_bytes());
        Decision { outcome, changes: vec![Write::put(key, command)].into() }
    }

    fn commit(&mut self, _: Revision) {
        self.settle();
    }

    fn rollback(&mut self) {
        self.commands.truncate(self.settled);
    }

    fn absorb(&mut self, _: Revision, writes: &[Write]) -> Result<(), MachineError> {
        assert_eq!(self.settled, self.commands.len(), "absorb while something is tentative");
        self.take_in(writes)
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn prefixes(&self) -> &'static [&'static str] {
        &[PREFIX]
    }

    fn load(&mut self, _: Revision, records: &[Write]) -> Result<(), MachineError> {
        self.commands.clear();
        self.take_in(records)
    }

    fn snapshot(&self) -> Vec<u8> {
        let texts: Vec<&[u8]> = self.commands.iter().map(|command| &command[..]).collect();
        texts.join(&b'\n')
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let parts = snapshot.split(|byte| *byte == b'\n').filter(|part| !part.is_empty());
        self.commands = parts.map(Bytes::copy_from_slice).collect();
        self.settle();
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::digest(self.snapshot()).into()
    }
}

fn lock(written: &Mutex<Vec<Bytes>>) -> MutexGuard<'_, Vec<Bytes>> {
    written.lock()
}
