//! Commands a second that groups in this process agree on, ours and those of other libraries.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use orch_peer_benches::{Load, System, Until};

/// Commands of each client in a round.
const EACH: u64 = 4;

fn benchmark(criterion: &mut Criterion) {
    for payload in [64, 1024] {
        let mut group = criterion.benchmark_group(format!("consensus/{payload}_bytes"));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        for clients in [1, 64, 256, 1024] {
            group.throughput(Throughput::Elements(clients as u64 * EACH));
            for system in System::ALL {
                let name = BenchmarkId::new(system.to_string(), clients);
                // Started by the first round, so that what is filtered out costs nothing.
                let mut members = None;
                group.bench_function(name, |bencher| {
                    let members = members.get_or_insert_with(|| system.start().expect("a group that starts"));
                    bencher.iter_custom(|rounds| {
                        let load = Load { clients, payload, until: Until::Each(rounds * EACH) };
                        members.run(&load).expect("all commands get an outcome").wall
                    });
                });
                if let Some(members) = members {
                    members.stop();
                }
            }
        }
        group.finish();
    }
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
