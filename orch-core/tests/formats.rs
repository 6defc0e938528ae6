//! Records and snapshots of earlier formats are read, stay valid, and are written in the present format from
//! the next write on.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use orch_core::{
    consensus::{Author, Context, MachineError},
    model::{NodeId, TaskId, Timestamp},
    scheduler::LeastFragmentation,
    state::{Change, ClusterConfig, ClusterState, Command, Envelope},
    store::{Key, Write},
};

/// One record a line: key, tab, value. Written by the version before specs had records of their own.
const RECORDS_1: &str = include_str!("formats/records-1.tsv");
const SNAPSHOT_1: &[u8] = include_bytes!("formats/snapshot-1.json");

fn empty() -> ClusterState {
    let config = ClusterConfig { finished_max: 3, ..ClusterConfig::default() };
    ClusterState::new(config, Arc::new(LeastFragmentation))
}

fn records_1() -> Vec<Write> {
    let record = |line: &str| {
        let (key, value) = line.split_once('\t').unwrap();
        Write::put(Key::new(key).unwrap(), value.as_bytes().to_vec())
    };
    RECORDS_1.lines().map(record).collect()
}

/// The same records; those of tasks without an environment get a large one.
fn large_records_1() -> Vec<Write> {
    let large = format!(r#""env":{{"LARGE":"{}"}},"workload":"#, "x".repeat(600));
    let enlarge = |mut write: Write| {
        let value = String::from_utf8(write.value.unwrap().to_vec()).unwrap();
        let free = !value.contains(r#""env""#);
        write.value = Some(if free { value.replace(r#""workload":"#, &large) } else { value }.into());
        write
    };
    records_1().into_iter().map(enlarge).collect()
}

fn loaded(records: &[Write]) -> Result<ClusterState, MachineError> {
    let mut state = empty();
    state.rebuild(Change::from_writes(records, |_| None)?)?;
    Ok(state)
}

#[test]
fn records_of_format_1_are_the_state_that_wrote_them() {
    let state = loaded(&records_1()).unwrap();
    let shown: Vec<_> =
        state.tasks().iter().map(|task| format!("{} {}", task.spec.name, task.status())).collect();
    let expected = [
        "short succeeded",
        "short succeeded",
        "short placed",
        "waits for its node disconnected",
        "has everything stopping",
        "fails failed",
        "too big pending",
    ];
    assert_eq!(shown, expected);
    let mut restored = empty();
    restored.restore(SNAPSHOT_1).unwrap();
    assert_eq!(restored.digest(), state.digest(), "the snapshot of format 1 is the same state");
}

#[test]
fn a_store_of_format_1_is_migrated_by_its_next_writes() {
    let mut records: BTreeMap<Key, Write> =
        large_records_1().into_iter().map(|write| (write.key.clone(), write)).collect();
    let mut state = loaded(&large_records_1()).unwrap();
    let mut seconds = 100;
    let mut carry_out = |state: &mut ClusterState, command| {
        seconds += 100;
        let author = Author::local();
        let context = Context::new(Timestamp::from_millis(seconds * 1000), &author);
        let decided = state.decide(&context, &Envelope::anonymous(command));
        decided.outcome.unwrap();
        for change in decided.changes {
            let write = change.to_write();
            state.absorb(change);
            match write.value {
                Some(_) => drop(records.insert(write.key.clone(), write)),
                None => drop(records.remove(&write.key)),
            }
        }
        let now: Vec<_> = records.values().cloned().collect();
        assert_eq!(loaded(&now).unwrap().digest(), state.digest(), "the store has the whole state");
        now
    };
    carry_out(&mut state, Command::Cancel { task: TaskId::from_bytes([9; 16]), reason: String::new() });
    carry_out(&mut state, Command::Cancel { task: TaskId::from_bytes([6; 16]), reason: String::new() });
    let lost = state.node(&NodeId::new("n").unwrap()).unwrap().record.session;
    let lose = Command::SuspectNode { node: NodeId::new("n").unwrap(), session: lost };
    let now = carry_out(&mut state, lose);
    // All tasks were written again or forgotten by now.
    let (mut large, mut small) = (BTreeSet::new(), 0);
    for task in state.tasks() {
        let key = format!("tasks/{}", task.id);
        let write = now.iter().find(|write| write.key.as_str() == key).unwrap();
        let value = std::str::from_utf8(write.value.as_ref().unwrap()).unwrap();
        if task.spec.env.contains_key("LARGE") {
            large.insert(task.spec.id());
            assert!(value.starts_with(r#"{"v":2,"#) && !value.contains("workload"), "{value}");
        } else {
            small += 1;
            assert!(value.starts_with(r#"{"v":1,"#) && value.contains("workload"), "{value}");
        }
    }
    let specs = now.iter().filter(|write| write.key.as_str().starts_with("specs/")).count();
    assert!(specs == large.len() && specs > 0 && small > 0, "{large:?} and {small}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let mut records = records_1();
    records[0].value = Some(r#"{"v":9,"record":{}}"#.into());
    let error = loaded(&records).unwrap_err().to_string();
    assert!(error.contains("commands/00000000") && error.contains("format 9"), "{error}");

    let state = loaded(&large_records_1()).unwrap();
    let task = &state.tasks()[0];
    let write = Change::PutTask(task.clone()).to_write();
    let error = loaded(&[write]).unwrap_err().to_string();
    assert!(error.contains(&format!("specs/{}, is missing", task.spec.id())), "{error}");

    let whole = state.snapshot();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let bad = |snapshot: &[u8]| empty().restore(snapshot).unwrap_err().to_string();
    assert!(bad(&damaged).contains("chunk 1 of 1 is damaged"), "{}", bad(&damaged));
    assert!(bad(&[7, 0, 0]).contains("format 7"));
    assert!(bad(br#"{"v":7,"clock":{},"nodes":[],"tasks":[],"commands":[]}"#).contains("cannot be read"));
    for end in 0..whole.len() {
        assert!(empty().restore(&whole[..end]).is_err(), "cut off after {end} bytes");
    }
    assert!(bad(&[&whole[..], b"x"].concat()).contains("after its end"));
}
