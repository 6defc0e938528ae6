//! Commands a second through the functional core: one task is submitted and placed, the oldest one ends, with half of the
//! cluster in use throughout.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orch_benches::cluster::{Core, small_task};

/// Half of the 80 tasks that fit on a node.
const BUSY: usize = 40;

fn submit_and_end(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("functional_core/submit_and_end");
    group.throughput(Throughput::Elements(2));
    for nodes in [10, 100, 1000] {
        let spec = Arc::new(small_task("task"));
        let mut core = Core::new(nodes, 10_000);
        for _ in 0..nodes * BUSY {
            core.submit(spec.clone());
        }
        group.bench_function(BenchmarkId::new("nodes", nodes), |bencher| {
            bencher.iter(|| {
                core.submit(spec.clone());
                core.end_oldest();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, submit_and_end);
criterion_main!(benches);
