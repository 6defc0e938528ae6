//! How long it takes to keep records that several authors write, beside document CRDTs. Everything is synced to the disk by all,
//! a transaction of 1,000 records at a time.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use orch_crdt_benches::{Automerge, Loro, Replica, Yrs, put_all};

const RECORDS: u64 = 100_000;

fn puts<R: Replica>(c: &mut Criterion) {
    let mut group = c.benchmark_group("put_100k");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    group.bench_function(R::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let place = tempfile::tempdir().expect("a directory");
                let mut replica = R::open(place.path(), 1);
                let begun = Instant::now();
                put_all(&mut replica, 1, 0..RECORDS, 0);
                time += begun.elapsed();
                assert_eq!(replica.count() as u64, RECORDS);
            }
            time
        });
    });
    group.finish();
}

fn merge<R: Replica>(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge_100k_with_100k");
    group.sample_size(10).throughput(Throughput::Elements(RECORDS));
    let place = tempfile::tempdir().expect("a directory");
    let mut theirs = R::open(place.path(), 2);
    put_all(&mut theirs, 2, 0..RECORDS, 0);
    group.bench_function(R::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let place = tempfile::tempdir().expect("a directory");
                let mut ours = R::open(place.path(), 1);
                put_all(&mut ours, 1, 0..RECORDS, 0);
                let begun = Instant::now();
                let version = ours.version();
                let update = theirs.missing(&version);
                ours.take(&update);
                time += begun.elapsed();
                assert_eq!(ours.count() as u64, 2 * RECORDS);
            }
            time
        });
    });
    group.finish();
}

fn sync<R: Replica>(c: &mut Criterion) {
    let changed = RECORDS / 100;
    let mut group = c.benchmark_group("sync_1_percent_of_100k");
    group.sample_size(10).throughput(Throughput::Elements(changed));
    let places = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let mut ours = R::open(places[0].path(), 1);
    let mut theirs = R::open(places[1].path(), 2);
    put_all(&mut theirs, 2, 0..RECORDS, 0);
    let mut round = 0;
    group.bench_function(R::NAME, |bencher| {
        bencher.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                round += 1;
                put_all(&mut theirs, 2, 0..changed, round);
                let begun = Instant::now();
                let version = ours.version();
                let update = theirs.missing(&version);
                ours.take(&update);
                time += begun.elapsed();
            }
            time
        });
    });
    group.finish();
}

fn all(c: &mut Criterion) {
    puts::<Loro>(c);
    puts::<Automerge>(c);
    puts::<Yrs>(c);
    merge::<Loro>(c);
    merge::<Automerge>(c);
    merge::<Yrs>(c);
    sync::<Loro>(c);
    sync::<Automerge>(c);
    sync::<Yrs>(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
