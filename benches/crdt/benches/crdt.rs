//! Puts and merges of 10,000 keys, by criterion.

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use orch_crdt_benches::{Automerge, Durable, Loro, Memory, Pair, Yrs};

const KEYS: usize = 10_000;

fn of<P: Pair>(criterion: &mut Criterion, name: &str) {
    let mut group = criterion.benchmark_group(name);
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(3))
        .throughput(Throughput::Elements(KEYS as u64));
    let new = || P::new().expect("it begins");
    group.bench_function("put", |bencher| {
        bencher.iter_batched(
            new,
            |mut pair| {
                pair.put(0, 0, KEYS, 1).expect("it is written");
                pair
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("merge", |bencher| {
        let apart = || {
            let mut pair = new();
            pair.put(0, 0, KEYS, 1).expect("it is written");
            pair.put(1, KEYS, KEYS, 1).expect("it is written");
            pair
        };
        bencher.iter_batched(
            apart,
            |mut pair| {
                pair.merge().expect("they meet");
                pair
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn all(criterion: &mut Criterion) {
    of::<Durable>(criterion, "orch-durable");
    of::<Memory>(criterion, "orch-memory");
    of::<Loro>(criterion, "loro");
    of::<Automerge>(criterion, "automerge");
    of::<Yrs>(criterion, "yrs");
}

criterion_group!(benches, all);
criterion_main!(benches);
