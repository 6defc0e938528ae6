//! Commands a second through the functional core: one task is submitted and placed, the oldest one ends, with
//! half of the cluster in use throughout.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use orch_benches::cluster::{Core, small_task};
use orch_core::model::{SharedSpec, TaskSpec};

/// Busy tasks per node: half of the 80 tasks that fit on one.
const BUSY: usize = 40;

fn submit_and_end(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("functional_core/submit_and_end");
    group.throughput(Throughput::Elements(2));
    for nodes in [10, 100, 1000, 10_000] {
        let spec = SharedSpec::from(small_task("task"));
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

/// A task ends on a full node while many distinct shapes wait, most of which do not fit into the free part.
fn end_with_waiting_shapes(criterion: &mut Criterion) {
    const NODES: usize = 1000;
    let mut group = criterion.benchmark_group("functional_core/end_with_waiting_shapes");
    group.throughput(Throughput::Elements(2));
    for shapes in [50, 5_000, 500_000] {
        let mut core = Core::new(NODES, 10_000);
        let shape = |number: u64| {
            let (cpu, memory) = (3800 + number % shapes % 4700, 1 + number % shapes / 4700);
            SharedSpec::from(TaskSpec::program("task", "true").cpu_millis(cpu).memory_mib(memory))
        };
        let mut numbers = 0..;
        let mut next = || shape(numbers.next().unwrap_or_default());
        for _ in 0..shapes + 4 * NODES as u64 {
            core.submit(next());
        }
        let mut node = (0..NODES).cycle();
        group.bench_function(BenchmarkId::new("shapes", shapes), |bencher| {
            bencher.iter(|| {
                core.submit(next());
                core.end_first_on(node.next().unwrap_or_default());
            });
        });
    }
    group.finish();
}

/// Ten thousand nodes register, in another order than that of their ids.
fn register(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("functional_core/register");
    group.sample_size(10);
    for nodes in [1_000, 10_000] {
        group.throughput(Throughput::Elements(nodes as u64));
        group.bench_function(BenchmarkId::new("nodes", nodes), |bencher| {
            bencher.iter(|| {
                let mut core = Core::new(0, 1);
                (0..nodes).for_each(|number| core.register(number * 7919 % nodes));
                core
            });
        });
    }
    group.finish();
}

criterion_group!(benches, submit_and_end, end_with_waiting_shapes, register);
criterion_main!(benches);
