//! Time to keep records that several authors write, beside document CRDTs. 1,000 records in a
//! transaction; all are asked for at once, and synced by all.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orch_crdt_benches::{Automerge, Documents, Loro, Pair, Stores, Yrs, put_all, transactions};
use tempfile::TempDir;

const RECORDS: u64 = 100_000;
const CHANGED: u64 = RECORDS / 100;

/// A new pair, and where it is.
fn open<P: Pair>() -> (P, [TempDir; 2]) {
    let places = [(), ()].map(|()| tempfile::tempdir().expect("a directory"));
    (P::open(places.each_ref().map(TempDir::path)), places)
}

fn puts<P: Pair>(c: &mut Criterion) {
    let mut group = c.benchmark_group("put_100k");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function(P::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let (mut pair, _places) = open::<P>();
                let records = transactions(0, 0..RECORDS, 0);
                let begun = Instant::now();
                pair.put(0, records);
                time += begun.elapsed();
                assert_eq!(pair.count(0) as u64, RECORDS);
            }
            time
        });
    });
    group.finish();
}

fn merge<P: Pair>(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge_100k_with_100k");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function(P::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let (mut pair, _places) = open::<P>();
                put_all(&mut pair, 0, 0..RECORDS, 0);
                put_all(&mut pair, 1, 0..RECORDS, 0);
                let begun = Instant::now();
                pair.sync();
                time += begun.elapsed();
                assert_eq!(pair.count(0) as u64, 2 * RECORDS);
            }
            time
        });
    });
    group.finish();
}

fn sync<P: Pair>(c: &mut Criterion) {
    let mut group = c.benchmark_group("sync_1_percent_of_100k");
    group.sample_size(10).throughput(Throughput::Elements(CHANGED));
    let (mut pair, _places) = open::<P>();
    put_all(&mut pair, 1, 0..RECORDS, 0);
    pair.sync();
    let mut round = 0;
    group.bench_function(P::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                round += 1;
                put_all(&mut pair, 1, 0..CHANGED, round);
                let begun = Instant::now();
                pair.sync();
                time += begun.elapsed();
            }
            time
        });
    });
    group.finish();
}

/// A member that lost its disk gets all from the other, which has forgotten what was overwritten.
fn refill(c: &mut Criterion) {
    let mut group = c.benchmark_group("refill_100k");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    let (mut pair, _places) = open::<Stores>();
    for round in 0..3 {
        put_all(&mut pair, 0, 0..RECORDS / 2, round);
        put_all(&mut pair, 1, 0..RECORDS / 2, round);
        pair.settle();
    }
    group.bench_function(Stores::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let place = tempfile::tempdir().expect("a directory");
                let begun = Instant::now();
                pair.replace_disk(place.path());
                time += begun.elapsed();
                assert_eq!(pair.count(0) as u64, RECORDS);
            }
            time
        });
    });
    group.finish();
}

fn each<P: Pair>(c: &mut Criterion) {
    puts::<P>(c);
    merge::<P>(c);
    sync::<P>(c);
}

fn all(c: &mut Criterion) {
    each::<Stores>(c);
    refill(c);
    each::<Documents<Loro>>(c);
    each::<Documents<Automerge>>(c);
    each::<Documents<Yrs>>(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
