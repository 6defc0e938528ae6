//! Conformance suite of [`OutputStore`]. Call [`run_all`] from a test of an implementation.

#![expect(clippy::unwrap_used, reason = "a case of a suite may panic")]

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};

use crate::{
    model::{AttemptId, TaskId, Timestamp},
    output::{KeptOutput, OutputPiece, OutputStore},
    runtime::OutputStream::{self, Stderr, Stdout},
};

/// Factory of output stores for the suite.
#[async_trait]
pub trait OutputHarness: Send + Sync {
    /// Opens the store called `name`, new and empty the first time. The suite drops it before it opens it
    /// again, and does that only where [`OutputHarness::reopens`].
    async fn open(&self, name: &str, bytes_max: u64) -> Arc<dyn OutputStore>;

    /// Whether a store can be opened again with its content.
    fn reopens(&self) -> bool;
}

macro_rules! run {
    ($harness:expr, $($case:ident,)+) => {$(
        let done = tokio::time::timeout(Duration::from_secs(120), $case($harness)).await;
        assert!(done.is_ok(), "{} hangs", stringify!($case));
    )+};
}

/// Runs every case.
///
/// # Panics
/// When the store breaks the contract.
pub async fn run_all(harness: &dyn OutputHarness) {
    run!(
        harness,
        pieces_are_read_in_order_and_once,
        an_attempt_keeps_its_newest_output,
        the_first_attempts_make_room,
        reading_goes_on_after_a_position,
        the_last_bytes_are_found,
        pieces_say_when_they_were_first_taken_in,
        what_was_taken_in_since_a_time_is_found,
        who_follows_is_woken_for_its_task_only,
        forgotten_tasks_are_gone_and_can_write_again,
    );
    if harness.reopens() {
        run!(harness, what_was_kept_is_there_again,);
    }
}

const MUCH: u64 = 64 << 20;

fn attempt(number: u32) -> AttemptId {
    AttemptId { task: TaskId::generate(), attempt: NonZeroU32::new(number).unwrap() }
}

/// Byte of any stream at `offset`.
fn byte(offset: u64) -> u8 {
    u8::try_from(offset % 251).unwrap()
}

fn piece(attempt: AttemptId, stream: OutputStream, offset: u64, len: u64) -> OutputPiece {
    let data: Vec<u8> = (offset..offset + len).map(byte).collect();
    OutputPiece { attempt, limit: 1 << 20, stream, offset, time: None, data: Bytes::from(data) }
}

/// All retained output of a task, after a check of its bytes and order.
async fn all(output: &dyn OutputStore, task: TaskId) -> Vec<KeptOutput> {
    let (mut after, mut pieces) = (None, Vec::<KeptOutput>::new());
    loop {
        let page = output.read(task, after).await.unwrap();
        pieces.extend(page.pieces);
        after = page.more;
        if after.is_none() {
            break;
        }
    }
    assert!(pieces.is_sorted_by(|one, next| one.position < next.position), "in order");
    for KeptOutput { offset, data, .. } in &pieces {
        let end = offset + data.len() as u64;
        assert!(data.iter().copied().eq((*offset..end).map(byte)), "other bytes at {offset}");
    }
    pieces
}

/// Ranges of retained output, with adjacent ones merged.
async fn places(output: &dyn OutputStore, task: TaskId) -> Vec<(u32, OutputStream, u64, u64)> {
    let mut places: Vec<(u32, OutputStream, u64, u64)> = Vec::new();
    for KeptOutput { position, stream, offset, data, .. } in all(output, task).await {
        let (attempt, end) = (position.attempt.get(), offset + data.len() as u64);
        match places.last_mut() {
            Some((of, on, _, last)) if (*of, *on, *last) == (attempt, stream, offset) => *last = end,
            _ => places.push((attempt, stream, offset, end)),
        }
    }
    places
}

async fn pieces_are_read_in_order_and_once(harness: &dyn OutputHarness) {
    let output = harness.open("pieces_are_read_in_order_and_once", MUCH).await;
    let first = attempt(1);
    let second = AttemptId { task: first.task, attempt: NonZeroU32::new(2).unwrap() };
    let other = attempt(1);
    let pieces = vec![
        piece(first, Stdout, 0, 10),
        piece(other, Stdout, 0, 7),
        piece(first, Stderr, 0, 5),
        piece(first, Stdout, 10, 200_000),
    ];
    output.append(pieces.clone()).await.unwrap();
    output.append(pieces).await.unwrap();
    output.append(vec![piece(first, Stdout, 150_000, 100_000), piece(second, Stdout, 0, 3)]).await.unwrap();
    output.append(Vec::new()).await.unwrap();
    let expected = [(1, Stdout, 0, 10), (1, Stderr, 0, 5), (1, Stdout, 10, 250_000), (2, Stdout, 0, 3)];
    assert_eq!(places(&*output, first.task).await, expected);
    assert_eq!(places(&*output, other.task).await, [(1, Stdout, 0, 7)]);
    assert_eq!(places(&*output, TaskId::generate()).await, []);
    let mut tasks = output.tasks().await;
    tasks.sort();
    let mut expected = [first.task, other.task];
    expected.sort();
    assert_eq!(tasks, expected);
    output.sync().await.unwrap();
}

async fn an_attempt_keeps_its_newest_output(harness: &dyn OutputHarness) {
    let output = harness.open("an_attempt_keeps_its_newest_output", MUCH).await;
    let one = attempt(1);
    for at in 0..100 {
        let piece = OutputPiece { limit: 1000, ..piece(one, Stdout, at * 100, 100) };
        output.append(vec![piece]).await.unwrap();
    }
    assert_eq!(places(&*output, one.task).await, [(1, Stdout, 9000, 10_000)]);
    let larger = OutputPiece { limit: 1000, ..piece(one, Stdout, 10_000, 5000) };
    output.append(vec![larger]).await.unwrap();
    assert_eq!(places(&*output, one.task).await, [(1, Stdout, 10_000, 15_000)], "the last piece stays whole");
}

async fn the_first_attempts_make_room(harness: &dyn OutputHarness) {
    let output = harness.open("the_first_attempts_make_room", 1_000_000).await;
    let attempts: Vec<AttemptId> = (0..100).map(|_| attempt(1)).collect();
    for half in [0, 25_000] {
        for one in &attempts {
            output.append(vec![piece(*one, Stdout, half, 25_000)]).await.unwrap();
        }
    }
    let mut kept = 0;
    for one in &attempts {
        kept += all(&*output, one.task).await.iter().map(|piece| piece.data.len() as u64).sum::<u64>();
    }
    assert!((900_000..=1_000_000).contains(&kept), "{kept} bytes are kept");
    let last = attempts.last().unwrap();
    assert_eq!(places(&*output, last.task).await.last().map(|place| place.3), Some(50_000));
}

async fn reading_goes_on_after_a_position(harness: &dyn OutputHarness) {
    let output = harness.open("reading_goes_on_after_a_position", MUCH).await;
    let one = attempt(1);
    output.append(vec![piece(one, Stdout, 0, 10), piece(one, Stderr, 0, 10)]).await.unwrap();
    let before = all(&*output, one.task).await;
    let last = before.last().unwrap().position;
    assert_eq!(output.read(one.task, Some(last)).await.unwrap().pieces, []);
    let again = AttemptId { task: one.task, attempt: NonZeroU32::new(3).unwrap() };
    output.append(vec![piece(one, Stdout, 10, 10), piece(again, Stdout, 0, 1)]).await.unwrap();
    let after = output.read(one.task, Some(last)).await.unwrap().pieces;
    let offsets: Vec<_> = after.iter().map(|piece| (piece.position.attempt.get(), piece.offset)).collect();
    assert_eq!(offsets, [(1, 10), (3, 0)]);
}

async fn the_last_bytes_are_found(harness: &dyn OutputHarness) {
    let output = harness.open("the_last_bytes_are_found", MUCH).await;
    let one = attempt(1);
    let two = AttemptId { task: one.task, attempt: NonZeroU32::new(2).unwrap() };
    for at in 0..20 {
        let (stream, start) = if at % 2 == 0 { (Stdout, at * 50) } else { (Stderr, (at - 1) * 50) };
        output.append(vec![piece(one, stream, start, 100)]).await.unwrap();
    }
    output.append(vec![piece(two, Stdout, 0, 100)]).await.unwrap();
    let found = async |attempt: Option<AttemptId>, bytes| {
        let of = attempt.map(|attempt| attempt.attempt);
        let place = output.place_of_last(one.task, of, bytes).await.unwrap();
        let after = output.read(one.task, place).await.unwrap().pieces;
        let of_it = after.iter().filter(|piece| of.is_none_or(|of| piece.position.attempt == of));
        of_it.map(|piece| piece.data.len()).sum::<usize>()
    };
    for (bytes, given) in
        [(0, 0), (1, 100), (100, 100), (101, 200), (2000, 2000), (2001, 2100), (u64::MAX, 2100)]
    {
        assert_eq!(found(None, bytes).await, given, "the last {bytes} bytes");
    }
    assert_eq!(
        (found(Some(one), 150).await, found(Some(one), 5000).await, found(Some(two), 5000).await),
        (200, 2000, 100)
    );
    assert_eq!(output.place_of_last(attempt(1).task, None, 100).await.unwrap(), None);
}

fn taken_in(millis: u64, piece: OutputPiece) -> OutputPiece {
    OutputPiece { time: Some(Timestamp::from_millis(millis)), ..piece }
}

async fn pieces_say_when_they_were_first_taken_in(harness: &dyn OutputHarness) {
    let output = harness.open("pieces_say_when_they_were_first_taken_in", MUCH).await;
    let one = attempt(1);
    output.append(vec![taken_in(1000, piece(one, Stdout, 0, 10))]).await.unwrap();
    output.append(vec![taken_in(2000, piece(one, Stdout, 0, 20))]).await.unwrap();
    let together = vec![
        taken_in(3000, piece(one, Stdout, 20, 10)),
        taken_in(3000, piece(one, Stdout, 30, 10)),
        taken_in(4000, piece(one, Stdout, 40, 10)),
        piece(one, Stdout, 50, 10),
    ];
    output.append(together.clone()).await.unwrap();
    output.append(together.into_iter().map(|piece| taken_in(9000, piece)).collect()).await.unwrap();
    let mut times = Vec::new();
    for KeptOutput { time, data, .. } in all(&*output, one.task).await {
        times.extend(data.iter().map(|_| time.map(Timestamp::as_millis)));
    }
    let expected = [Some(1000), Some(2000), Some(3000), Some(3000), Some(4000), None];
    assert_eq!(times, expected.map(|time| [time; 10]).concat());
}

async fn what_was_taken_in_since_a_time_is_found(harness: &dyn OutputHarness) {
    let output = harness.open("what_was_taken_in_since_a_time_is_found", MUCH).await;
    let one = attempt(1);
    let two = AttemptId { task: one.task, attempt: NonZeroU32::new(2).unwrap() };
    output.append(vec![piece(one, Stdout, 0, 100)]).await.unwrap();
    // The clock goes back once.
    for (at, millis) in [1000, 2000, 4000, 3000].into_iter().enumerate() {
        output.append(vec![taken_in(millis, piece(one, Stderr, at as u64 * 100, 100))]).await.unwrap();
    }
    output.append(vec![taken_in(5000, piece(two, Stdout, 0, 100))]).await.unwrap();
    let found = async |attempt: Option<AttemptId>, since| {
        let of = attempt.map(|attempt| attempt.attempt);
        let place = output.place_since(one.task, of, Timestamp::from_millis(since)).await.unwrap();
        let after = output.read(one.task, place).await.unwrap().pieces;
        let of_it = after.iter().filter(|piece| of.is_none_or(|of| piece.position.attempt == of));
        of_it.map(|piece| piece.data.len()).sum::<usize>()
    };
    for (since, given) in
        [(0, 500), (1000, 500), (1001, 400), (2001, 300), (3500, 300), (4001, 100), (5000, 100), (5001, 0)]
    {
        assert_eq!(found(None, since).await, given, "since {since}");
    }
    assert_eq!((found(Some(one), 2000).await, found(Some(one), 4001).await), (300, 0));
    assert_eq!((found(Some(two), 0).await, found(Some(two), 5001).await), (100, 0));
    assert_eq!(output.place_since(attempt(1).task, None, Timestamp::ZERO).await.unwrap(), None);
}

async fn who_follows_is_woken_for_its_task_only(harness: &dyn OutputHarness) {
    let output = harness.open("who_follows_is_woken_for_its_task_only", MUCH).await;
    let (one, other) = (attempt(1), attempt(1));
    output.append(vec![piece(one, Stdout, 0, 10)]).await.unwrap();
    let mut followed = output.follow(one.task).await.unwrap();
    let mut elsewhere = output.follow(attempt(1).task).await.unwrap();
    assert!(followed.next().now_or_never().is_none(), "nothing since the call");
    output.append(vec![piece(other, Stdout, 0, 10), piece(one, Stdout, 10, 10)]).await.unwrap();
    followed.next().await.unwrap().unwrap();
    assert!(elsewhere.next().now_or_never().is_none());
    output.append(vec![piece(one, Stderr, 0, 10)]).await.unwrap();
    followed.next().await.unwrap().unwrap();
}

async fn forgotten_tasks_are_gone_and_can_write_again(harness: &dyn OutputHarness) {
    let output = harness.open("forgotten_tasks_are_gone_and_can_write_again", MUCH).await;
    let (one, two, three) = (attempt(1), attempt(1), attempt(2));
    for of in [one, two, three] {
        output.append(vec![piece(of, Stdout, 0, 1000)]).await.unwrap();
    }
    output.forget(&[one.task, three.task, TaskId::generate()]).await.unwrap();
    assert_eq!(output.tasks().await, [two.task]);
    assert_eq!(places(&*output, one.task).await, []);
    output.append(vec![piece(one, Stdout, 1000, 10)]).await.unwrap();
    assert_eq!(places(&*output, one.task).await, [(1, Stdout, 1000, 1010)]);
    assert_eq!(places(&*output, two.task).await, [(1, Stdout, 0, 1000)]);
}

async fn what_was_kept_is_there_again(harness: &dyn OutputHarness) {
    let name = "what_was_kept_is_there_again";
    let (one, two) = (attempt(1), attempt(3));
    let output = harness.open(name, MUCH).await;
    for at in 0..50 {
        let time = (at % 3 > 0).then(|| Timestamp::from_millis(1_700_000_000_000 + at));
        let pieces =
            [one, two].map(|of| OutputPiece { limit: 3000, time, ..piece(of, Stdout, at * 100, 100) });
        output.append(pieces.into()).await.unwrap();
    }
    output.append(vec![OutputPiece { limit: 3000, ..piece(two, Stderr, 0, 10) }]).await.unwrap();
    let before = (all(&*output, one.task).await, all(&*output, two.task).await);
    drop(output);
    let output = harness.open(name, MUCH).await;
    let after = (all(&*output, one.task).await, all(&*output, two.task).await);
    assert!(
        after == before,
        "{} and {} pieces, before {} and {}",
        after.0.len(),
        after.1.len(),
        before.0.len(),
        before.1.len()
    );
    output.append(vec![OutputPiece { limit: 3100, ..piece(one, Stdout, 4900, 200) }]).await.unwrap();
    assert_eq!(places(&*output, one.task).await, [(1, Stdout, 2000, 5100)]);
}
