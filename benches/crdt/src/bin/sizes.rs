//! What records take: in memory and on the disk for each, on their way after 1 % changed, and on the disk after they were written
//! again and again.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use orch_crdt_benches::{Automerge, Loro, RECORD_BYTES, Replica, Yrs, file_bytes, key, put_all};

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
const ROUNDS: u64 = 100;

fn main() {
    println!(
        "| | memory a record | disk a record, as written | compacted | bytes to send after 1 % changed | for each changed byte | disk after {REWRITTEN} keys were written {ROUNDS} times | compacted |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    weigh::<Loro>();
    weigh::<Automerge>();
    weigh::<Yrs>();
}

fn weigh<R: Replica>() {
    let places: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut theirs = R::open(places[0].path(), 2);
    put_all(&mut theirs, 2, 0..RECORDS, 0);
    let memory = (ALLOCATED.load(Ordering::Relaxed) - before) as u64 / RECORDS;
    let written = file_bytes(places[0].path()) / RECORDS;

    let mut ours = R::open(places[1].path(), 1);
    let all = theirs.missing(&ours.version());
    ours.take(&all);
    let changed = RECORDS / 100;
    put_all(&mut theirs, 2, 0..changed, 1);
    let update = theirs.missing(&ours.version()).len() as u64;
    let payload = changed * (RECORD_BYTES + key(2, 0).len()) as u64;
    theirs.compact();
    let compacted = file_bytes(places[0].path()) / RECORDS;

    let mut again = R::open(places[2].path(), 3);
    for round in 0..ROUNDS {
        put_all(&mut again, 3, 0..REWRITTEN, round);
    }
    let rewritten = file_bytes(places[2].path());
    again.compact();
    let shrunk = file_bytes(places[2].path());
    println!(
        "| {} | {memory} B | {written} B | {compacted} B | {update} | {:.2} | {rewritten} | {shrunk} |",
        R::NAME,
        update as f64 / payload as f64
    );
}
