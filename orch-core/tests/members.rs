//! Orchestrators among others, and at their end: members that decide over one store, what is left when the last handle is
//! dropped, and agents that drain.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{sync::Arc, time::Duration};

use orch_core::{
    Error, Orchestrator,
    consensus::StoreConsensus,
    engine::{Agent, AgentConfig, AgentHandle, ControlLink, EngineConfig, EventKind},
    model::{NodeId, NodeState, Resources, WorkKind},
    store::{Key, MemoryStore, StateStore, Txn, Write},
    testkit::SimulatedRuntime,
};

/// Longer than anything here takes, so that a hang has a name.
const PATIENCE: Duration = Duration::from_secs(3600);

fn agent_config(node: &str) -> AgentConfig {
    let mut config = AgentConfig::local(node, [WorkKind::Program]).unwrap();
    config.node.capacity = Resources::new(4000, 4 << 30);
    config
}

async fn join(link: Arc<dyn ControlLink>, node: &str, runtime: &SimulatedRuntime) -> AgentHandle {
    let agent = Agent::start(agent_config(node), Arc::new(runtime.clone()), link);
    agent.registered().await.unwrap();
    agent
}

fn named(member: &str) -> EngineConfig {
    EngineConfig { member: member.into(), ..EngineConfig::default() }
}

async fn member(store: &Arc<dyn StateStore>, name: &str) -> Orchestrator {
    let consensus = Arc::new(StoreConsensus::new(store.clone()));
    let builder = Orchestrator::builder().store(store.clone()).consensus(consensus);
    builder.engine(named(name)).build().await.unwrap()
}

fn shared_store() -> Arc<dyn StateStore> {
    Arc::new(MemoryStore::default())
}

fn state_of(orch: &Orchestrator, node: &NodeId) -> Option<NodeState> {
    orch.nodes().iter().find(|known| known.id() == node).map(|known| known.record.state)
}

/// Waits until the member knows that the node is in this state.
async fn until(orch: &Orchestrator, node: &NodeId, state: NodeState) {
    let mut events = orch.events();
    let looked = async {
        while state_of(orch, node) != Some(state) {
            events.next().await.unwrap().unwrap();
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looked).await.is_ok(), "{node} never became {state:?}");
}

/// Lets time pass and checks that no member took the node for lost meanwhile.
async fn stays_ready(members: &[&Orchestrator], node: &NodeId, time: Duration) {
    let mut streams: Vec<_> = members.iter().map(|orch| orch.events()).collect();
    tokio::time::sleep(time).await;
    for (orch, events) in members.iter().zip(&mut streams) {
        assert_eq!(state_of(orch, node), Some(NodeState::Ready));
        while let Ok(event) = tokio::time::timeout(Duration::ZERO, events.next()).await {
            if let EventKind::Node(record) = event.unwrap().unwrap().kind {
                assert_eq!(record.state, NodeState::Ready);
            }
        }
    }
}

fn told(member: &str) -> Key {
    Key::new(format!("observed/members/{member}")).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_node_that_one_member_hears_is_alive_for_all() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let agent = join(one.link(), "a", &SimulatedRuntime::new()).await;
    until(&two, &node, NodeState::Ready).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(120)).await;

    agent.leave().await;
    for orch in [&one, &two] {
        until(orch, &node, NodeState::Lost).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_to_another_member_is_not_lost_again() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let runtime = SimulatedRuntime::new();
    join(one.link(), "a", &runtime).await.leave().await;
    until(&one, &node, NodeState::Lost).await;
    until(&two, &node, NodeState::Lost).await;
    let _agent = join(two.link(), "a", &runtime).await;
    until(&one, &node, NodeState::Ready).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(120)).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_member_dies_is_lost_for_the_others() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let _agent = join(one.link(), "a", &SimulatedRuntime::new()).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(60)).await;
    let died = tokio::time::Instant::now();
    drop(one);
    until(&two, &node, NodeState::Lost).await;
    assert!(died.elapsed() >= EngineConfig::default().node_timeout - Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn what_members_tell_is_cleaned_up_and_need_not_be_readable() {
    let (store, node) = (shared_store(), NodeId::new("a").unwrap());
    let dead = ["{", r#"{"v":2}"#, r#"{"v":1,"nodes":["a","unknown"]}"#].into_iter().enumerate();
    let writes = dead.map(|(number, text)| Write::put(told(&format!("dead-{number}")), text)).collect();
    store.commit(Txn::of(writes)).await.unwrap();
    let (one, two) = (member(&store, "one").await, member(&store, "two").await);
    let _agent = join(one.link(), "a", &SimulatedRuntime::new()).await;
    stays_ready(&[&one, &two], &node, Duration::from_secs(60)).await;
    let keys = async || {
        let page = store.scan("observed/members/", None, 100).await.unwrap();
        page.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
    };
    assert_eq!(keys().await, [told("one")], "what nobody repeats is deleted");
    drop(one);
    let mut changes = store.watch("observed/members/", store.revision().await.unwrap()).await.unwrap();
    while !keys().await.is_empty() {
        futures_util::StreamExt::next(&mut changes).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn members_of_one_store_need_names_the_store_and_time() {
    let store = shared_store();
    let refused = async |engine: EngineConfig, with_store: bool| {
        let consensus = Arc::new(StoreConsensus::new(store.clone()));
        let mut builder = Orchestrator::builder().consensus(consensus).engine(engine);
        if with_store {
            builder = builder.store(store.clone());
        }
        match builder.build().await {
            Err(Error::Composition(why)) => why,
            other => panic!("{other:?}"),
        }
    };
    let unnamed = refused(EngineConfig::default(), true).await;
    assert!(unnamed.contains("set EngineConfig::member to a name that no other member has"), "{unnamed}");
    let storeless = refused(named("one"), false).await;
    assert!(storeless.contains("to .store(...) too"), "{storeless}");
    let hasty = EngineConfig { node_timeout: Duration::from_secs(7), ..named("one") };
    let hasty = refused(hasty, true).await;
    assert!(hasty.contains("at least three times heartbeat_interval"), "{hasty}");
    for name in ["", "a/b", "..", "a\nb", &"x".repeat(600)] {
        let error = named(name).validate().unwrap_err();
        assert!(error.contains("must be one part of a key"), "{error}");
    }
    assert_eq!(named("rack 1, host 7").validate(), Ok(()));
}
