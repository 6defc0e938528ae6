//! The checkers of histories, against each other, against a third one that is too dumb to be wrong, and
//! against cases from the literature.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use orch_sim::Random;
use orch_sim::history::{
    History, KeyValue, KeyValueInput, KeyValueOutput, Model, OpId, Violation, just_in_time, wing_gong_lowe,
};
use proptest::prelude::*;

use KeyValueInput::{Cas, Get, Put};
use KeyValueOutput::{Swapped, Value, Written};

const fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

/// Client, call, return (`None`: never returned), input and output.
#[derive(Clone, Debug)]
struct Op {
    client: u64,
    call: u64,
    end: Option<u64>,
    input: KeyValueInput,
    output: KeyValueOutput,
}

fn op(
    client: u64,
    call: u64,
    end: impl Into<Option<u64>>,
    input: KeyValueInput,
    output: KeyValueOutput,
) -> Op {
    Op { client, call, end: end.into(), input, output }
}

fn history(ops: &[Op]) -> (History<KeyValueInput, KeyValueOutput>, Vec<OpId>) {
    let mut history = History::new();
    let ids: Vec<_> = ops.iter().map(|op| history.invoke(op.client, us(op.call), op.input)).collect();
    for (op, id) in ops.iter().zip(&ids) {
        if let Some(end) = op.end {
            history.complete(*id, us(end), op.output);
        }
    }
    (history, ids)
}

/// Both verdicts, which have to agree also in where they got stuck.
fn verdict(ops: &[Op]) -> Result<(), Violation> {
    let (history, _) = history(ops);
    let deep = wing_gong_lowe(&KeyValue, &history);
    let wide = just_in_time(&KeyValue, &history);
    match (&deep, &wide) {
        (Ok(()), Ok(())) => {}
        (Err(deep), Err(wide)) => {
            assert_eq!(
                (deep.partition(), deep.operation()),
                (wide.partition(), wide.operation()),
                "{ops:#?}"
            );
            assert_eq!(deep.prefix(), wide.prefix());
        }
        _ => panic!("they disagree: {deep:?} and {wide:?} about {ops:#?}"),
    }
    deep
}

/// Tries every order by the definition: one operation after the other, none before one that had returned when
/// it was called. Those never returned may be left out. Knows nothing of partitions.
fn any_order(ops: &[Op], left: &mut Vec<usize>, state: &mut Vec<(u64, u64)>) -> bool {
    if left.iter().all(|index| ops[*index].end.is_none()) {
        return true;
    }
    for at in 0..left.len() {
        let index = left[at];
        let op = &ops[index];
        if left.iter().any(|other| ops[*other].end.is_some_and(|end| end < op.call)) {
            continue;
        }
        let key = op.input.key();
        let before = state.iter().find(|(other, _)| *other == key).map(|(_, value)| *value);
        let (after, output) = KeyValue.apply(&before, &op.input);
        if op.end.is_some() && output != op.output {
            continue;
        }
        let old = state.clone();
        state.retain(|(other, _)| *other != key);
        state.extend(after.map(|value| (key, value)));
        left.remove(at);
        let found = any_order(ops, left, state);
        left.insert(at, index);
        *state = old;
        if found {
            return true;
        }
    }
    false
}

fn dumb(ops: &[Op]) -> bool {
    any_order(ops, &mut (0..ops.len()).collect(), &mut Vec::new())
}

/// An operation by three numbers, so that proptest can make it smaller.
fn input(kind: u8, key: u64, value: u64) -> KeyValueInput {
    match kind % 3 {
        0 => Get { key },
        1 => Put { key, value },
        _ => Cas { key, expected: value.checked_sub(1), new: value },
    }
}

/// Operations of clients that wait for their answers, which are those of one copy of the data at one moment
/// between call and return: linearizable by construction. What is never returned may or may not have
/// happened.
fn honest(seed: u64, operations: usize, clients: u64, keys: u64, values: u64, pending: u32) -> Vec<Op> {
    let mut random = Random::new(seed);
    let mut free = vec![0_u64; usize::try_from(clients).unwrap()];
    let mut plans: Vec<(u64, u64, Option<u64>, KeyValueInput, bool)> = Vec::new();
    for _ in 0..operations {
        let client = usize::try_from(random.below(clients)).unwrap();
        let call = free[client] + 2 * random.range(1..50);
        let moment = call + 1 + 2 * random.range(0..50);
        let end = moment + 1 + 2 * random.range(0..50);
        free[client] = end;
        let returned = !random.chance(pending);
        let kind = random.next().to_le_bytes()[0];
        let input = input(kind, random.below(keys), random.range(1..values + 1));
        plans.push((moment, call, returned.then_some(end), input, returned || random.chance(500)));
    }
    let mut order: Vec<usize> = (0..plans.len()).collect();
    order.sort_by_key(|index| plans[*index].0);
    let mut state = std::collections::BTreeMap::new();
    let mut outputs = vec![Written; plans.len()];
    for index in order {
        let (_, _, _, input, happens) = plans[index];
        if happens {
            let before = state.get(&input.key()).copied().flatten();
            let (after, output) = KeyValue.apply(&before, &input);
            state.insert(input.key(), after);
            outputs[index] = output;
        }
    }
    let ops = plans.into_iter().zip(outputs).enumerate();
    ops.map(|(index, ((_, call, end, input, _), output))| op(index as u64, call, end, input, output))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn honest_histories_are_linearizable(
        seed: u64, operations in 1..60_usize, clients in 1..6_u64, keys in 1..4_u64, values in 1..5_u64,
    ) {
        prop_assert!(verdict(&honest(seed, operations, clients, keys, values, 50)).is_ok());
    }

    #[test]
    fn all_agree_about_random_histories(
        ops in prop::collection::vec(
            (0..20_u64, 0..10_u64, 0..3_u8, 0..3_u8, 0..2_u64, 1..3_u64, 0..4_u64), 1..8,
        ),
    ) {
        let ops: Vec<Op> = ops
            .into_iter()
            .enumerate()
            .map(|(client, (call, length, returned, kind, key, value, answer))| {
                let output = match kind {
                    0 => Value(answer.checked_sub(1)),
                    1 => Written,
                    _ => Swapped(answer % 2 == 0),
                };
                // Different moments for all, as the third checker knows no order within one.
                let moment = |time: u64| time * 100 + client as u64;
                let end = (returned > 0).then(|| moment(call + length + 1));
                op(client as u64, moment(call), end, input(kind, key, value), output)
            })
            .collect();
        prop_assert_eq!(verdict(&ops).is_ok(), dumb(&ops));
    }

    #[test]
    fn all_agree_about_histories_with_one_false_answer(
        seed: u64, operations in 1..9_usize, clients in 1..5_u64, victim: prop::sample::Index, answer in 0..4_u64,
    ) {
        let mut ops = honest(seed, operations, clients, 1, 3, 100);
        let victim = victim.index(ops.len());
        ops[victim].output = match ops[victim].output {
            Value(_) => Value(answer.checked_sub(1)),
            Swapped(swapped) => Swapped(!swapped),
            other => other,
        };
        prop_assert_eq!(verdict(&ops).is_ok(), dumb(&ops));
    }

    #[test]
    fn the_two_agree_about_longer_false_histories(
        seed: u64, operations in 20..80_usize, clients in 2..7_u64, victim: prop::sample::Index,
    ) {
        let mut ops = honest(seed, operations, clients, 2, 4, 30);
        let victim = victim.index(ops.len());
        match &mut ops[victim].output {
            Value(value) => *value = Some(value.map_or(1, |value| value % 4 + 1)),
            Swapped(swapped) => *swapped = !*swapped,
            _ => {}
        }
        // The verdict itself compares the two.
        let _ = verdict(&ops);
    }

    #[test]
    fn a_violation_is_the_first_return_that_fits_nowhere(
        seed: u64, operations in 4..40_usize, clients in 2..5_u64, victim: prop::sample::Index,
    ) {
        let mut ops = honest(seed, operations, clients, 1, 3, 50);
        let victim = victim.index(ops.len());
        if let Value(value) = &mut ops[victim].output {
            *value = Some(value.map_or(1, |value| value % 3 + 1));
        }
        if let Err(violation) = verdict(&ops) {
            let (_, ids) = history(&ops);
            let stuck = ids.iter().position(|id| *id == violation.operation()).unwrap();
            let at = ops[stuck].end.unwrap();
            // Later calls do not matter to it.
            let overlapping: Vec<Op> = ops.iter().filter(|op| op.call <= at).cloned().collect();
            prop_assert_eq!(violation.prefix().len() + 1, overlapping.len());
            prop_assert!(verdict(&overlapping).is_err());
            // Without this answer, and those that come with it or later, all can be explained. What returns
            // in the same moment is recorded in the order of the operations.
            let before = |(index, op): (usize, &Op)| Op {
                end: op.end.filter(|end| (*end, index) < (at, stuck)),
                ..op.clone()
            };
            prop_assert!(verdict(&ops.iter().enumerate().map(before).collect::<Vec<_>>()).is_ok());
        }
    }
}

#[test]
fn an_empty_history_is_linearizable() {
    assert!(verdict(&[]).is_ok());
}

/// Herlihy and Wing's point: overlapping operations may take effect in either order, ...
#[test]
fn overlapping_operations_have_no_order() {
    let put = op(0, 0, 10, Put { key: 0, value: 1 }, Written);
    for seen in [None, Some(1)] {
        assert!(verdict(&[put.clone(), op(1, 5, 15, Get { key: 0 }, Value(seen))]).is_ok());
    }
}

/// ... and operations of which one ends before the other begins may not.
#[test]
fn a_stale_read_is_found() {
    let violation = verdict(&[
        op(0, 0, 10, Put { key: 0, value: 1 }, Written),
        op(1, 11, 15, Get { key: 0 }, Value(None)),
    ])
    .unwrap_err();
    assert_eq!(
        violation.to_string(),
        "partition 0 is not linearizable; no order explains\n  \
           #1 client 1 [11µs .. 15µs] Get { key: 0 } -> Value(None)\n\
         where the state could have been Some(1), after\n  \
           #0 client 0 [0ns .. 10µs] Put { key: 0, value: 1 } -> Written\n"
    );
}

/// A value that was read must not be unread: the inversion that Attiya, Bar-Noy and Dolev's write-back
/// prevents.
#[test]
fn a_new_value_is_not_followed_by_the_old_one() {
    let put = op(0, 0, 100, Put { key: 0, value: 1 }, Written);
    let reads = |first, second| {
        [
            put.clone(),
            op(1, 10, 20, Get { key: 0 }, Value(first)),
            op(2, 30, 40, Get { key: 0 }, Value(second)),
        ]
    };
    assert!(verdict(&reads(Some(1), None)).is_err());
    assert!(verdict(&reads(None, Some(1))).is_ok());
    assert!(verdict(&reads(Some(1), Some(1))).is_ok());
    assert!(verdict(&reads(None, None)).is_ok());
}

#[test]
fn a_lost_update_is_found() {
    let ops = [
        op(0, 0, 1, Put { key: 0, value: 1 }, Written),
        op(1, 2, 10, Cas { key: 0, expected: Some(1), new: 2 }, Swapped(true)),
        op(2, 2, 10, Cas { key: 0, expected: Some(1), new: 3 }, Swapped(true)),
    ];
    assert!(verdict(&ops).is_err());
    assert!(verdict(&ops[..2]).is_ok());
}

/// Each register alone is fine, though no order of all is sequential for both clients: linearizability does
/// not ask.
#[test]
fn keys_are_judged_one_by_one() {
    let violation = verdict(&[
        op(0, 0, 1, Put { key: 1, value: 1 }, Written),
        op(0, 2, 3, Put { key: 2, value: 1 }, Written),
        op(1, 4, 5, Get { key: 2 }, Value(Some(1))),
        op(1, 6, 7, Get { key: 1 }, Value(None)),
    ])
    .unwrap_err();
    assert_eq!((violation.partition(), violation.prefix().len()), (1, 1));
}

#[test]
fn what_never_returned_may_have_happened_late_or_not_at_all() {
    let pending = op(0, 0, None, Put { key: 0, value: 1 }, Written);
    let reads = |values: &[Option<u64>]| {
        let reads = values.iter().zip((10..).step_by(10));
        let reads = reads.map(|(value, at)| op(1, at, at + 5, Get { key: 0 }, Value(*value)));
        std::iter::once(pending.clone()).chain(reads).collect::<Vec<_>>()
    };
    assert!(verdict(&reads(&[None, None, None])).is_ok());
    assert!(verdict(&reads(&[None, Some(1), Some(1)])).is_ok());
    assert!(verdict(&reads(&[None, Some(1), None])).is_err());
}

#[test]
fn what_never_returned_did_not_happen_before_its_call() {
    let ops =
        [op(1, 0, 5, Get { key: 0 }, Value(Some(1))), op(0, 10, None, Put { key: 0, value: 1 }, Written)];
    assert!(verdict(&ops).is_err());
}

#[test]
fn the_order_of_recording_decides_within_a_moment() {
    let mut history = History::new();
    let put = history.invoke(0, us(0), Put { key: 0, value: 1 });
    history.complete(put, us(0), Written);
    let get = history.invoke(1, us(0), Get { key: 0 });
    history.complete(get, us(0), Value(None));
    assert!(wing_gong_lowe(&KeyValue, &history).is_err());
    assert!(just_in_time(&KeyValue, &history).is_err());
    assert_eq!((history.len(), history.completed(), history.is_empty()), (2, 2, false));
}

#[test]
#[should_panic(expected = "completed once")]
fn an_operation_is_completed_once() {
    let mut history = History::new();
    let put = history.invoke(0, us(0), Put { key: 0, value: 1 });
    history.complete(put, us(1), Written);
    history.complete(put, us(2), Written);
}

/// The promise is milliseconds; the bound leaves room for a machine that does other things as well.
#[test]
fn long_histories_are_checked_quickly() {
    let (history, _) = history(&honest(1, 2000, 10, 10, 100, 10));
    let began = Instant::now();
    wing_gong_lowe(&KeyValue, &history).unwrap();
    let deep = began.elapsed();
    just_in_time(&KeyValue, &history).unwrap();
    println!("depth first {deep:?}, breadth first {:?}", began.elapsed() - deep);
    assert!(deep < Duration::from_secs(1), "{deep:?}");
}

/// A run with faults leaves many operations that never returned. If each doubled the work, this would not
/// end.
#[test]
fn many_operations_without_an_answer_do_not_stop_a_check() {
    for seed in 0..5 {
        let mut ops = honest(seed, 1000, 5, 2, 1_000_000, 200);
        let began = Instant::now();
        verdict(&ops).unwrap();
        let last = ops.iter().rposition(|op| op.end.is_some() && matches!(op.output, Value(_))).unwrap();
        ops[last].output = Value(Some(u64::MAX));
        assert_eq!(verdict(&ops).unwrap_err().partition(), ops[last].input.key());
        println!("{:?}", began.elapsed());
    }
}
