//! Size of records: in memory and on the disk for each, on their way after 1 % changed, and on the disk
//! after they were written again and again.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use orch_crdt_benches::{
    Automerge, Documents, Loro, Pair, RECORD_BYTES, Stores, Yrs, file_bytes, key, put_all,
};

/// Counts what is allocated.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator cannot be written otherwise; it passes everything on")]
// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RECORDS: u64 = 100_000;
const REWRITTEN: u64 = 1_000;
const FEW: u64 = 100;
const ROUNDS: u64 = 400;

fn main() {
    println!(
        "| | memory a record | disk a record, as written | compacted | bytes sent after 1 % changed | for each changed \
         byte | disk after {REWRITTEN} keys were written {FEW} times | {ROUNDS} times | compacted |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    weigh::<Stores>();
    weigh::<Documents<Loro>>();
    weigh::<Documents<Automerge>>();
    weigh::<Documents<Yrs>>();
}

fn weigh<P: Pair>() {
    let places: Vec<_> = (0..4).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut pair = P::open([places[0].path(), places[1].path()]);
    put_all(&mut pair, 1, 0..RECORDS, 0);
    let memory = ALLOCATED.load(Ordering::Relaxed).saturating_sub(before) as u64 / RECORDS;
    let written = file_bytes(places[1].path()) / RECORDS;

    pair.sync();
    let changed = RECORDS / 100;
    put_all(&mut pair, 1, 0..changed, 1);
    let update = pair.sync();
    let payload = changed * (RECORD_BYTES + key(1, 0).len()) as u64;
    pair.compact(1);
    let compacted = file_bytes(places[1].path()) / RECORDS;
    drop(pair);

    let mut again = P::open([places[2].path(), places[3].path()]);
    let mut rewritten = [0; 2];
    for round in 1..=ROUNDS {
        put_all(&mut again, 1, 0..REWRITTEN, round);
        again.settle();
        if [FEW, ROUNDS].contains(&round) {
            rewritten[usize::from(round == ROUNDS)] = file_bytes(places[3].path()) >> 10;
        }
    }
    let [few, many] = rewritten;
    again.compact(1);
    let shrunk = file_bytes(places[3].path());
    println!(
        "| {} | {memory} B | {written} B | {compacted} B | {update} | {:.2} | {few} KiB | {many} KiB | {} KiB |",
        P::NAME,
        update as f64 / payload as f64,
        shrunk >> 10,
    );
}
