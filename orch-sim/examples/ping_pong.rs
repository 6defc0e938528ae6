//! Measures the simulator: `cargo run --release -p orch-sim --example ping_pong [events]`.

use std::time::{Duration, Instant};

use orch_sim::{Context, NodeId, Process, Settings, Simulation};

/// Greets everybody, and answers each message with another one.
struct Player;

impl Process for Player {
    type Message = u64;

    fn start(&mut self, ctx: &mut Context<'_, u64>) {
        for other in 0..ctx.nodes() {
            if other != ctx.node() {
                ctx.send(other, 0);
            }
        }
        ctx.set_timer(Duration::from_millis(1), 0);
    }

    fn receive(&mut self, from: NodeId, message: u64, ctx: &mut Context<'_, u64>) {
        ctx.send(from, message + 1);
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, u64>) {
        ctx.set_timer(Duration::from_millis(1), id + 1);
    }

    fn synced(&mut self, _: u64, _: &mut Context<'_, u64>) {}
}

#[expect(clippy::print_stdout, reason = "the numbers are what it is for")]
fn main() {
    let events = std::env::args().nth(1).and_then(|events| events.parse().ok()).unwrap_or(20_000_000);
    let mut sim = Simulation::new(1, 7, Settings::default(), |_, _| Player);
    let began = Instant::now();
    while sim.statistics().events < events && sim.step() {}
    let seconds = began.elapsed().as_secs_f64();
    let millions_per_second = f64::from(u32::try_from(events).unwrap_or(u32::MAX)) / seconds / 1e6;
    println!("{events} events in {seconds:.2} s: {millions_per_second:.1} million a second");
    println!("{:?} of virtual time, hash {:016x}", sim.now(), sim.trace_hash());
}
