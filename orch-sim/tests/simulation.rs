//! Promises of a simulation to the processes in it, and to the test around it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use orch_sim::{Context, DiskError, NetworkConditions, NodeId, Process, Settings, Simulation};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Writes down all that comes to it.
#[derive(Debug, Default)]
struct Recorder {
    received: Vec<(NodeId, u64)>,
    timers: Vec<(u64, Duration)>,
    synced: Vec<(u64, Duration)>,
    found: Vec<u8>,
}

impl Process for Recorder {
    type Message = u64;

    fn start(&mut self, ctx: &mut Context<'_, u64>) {
        let node = ctx.node();
        ctx.log(|| format!("hello from {node}"));
    }

    fn receive(&mut self, from: NodeId, message: u64, _: &mut Context<'_, u64>) {
        self.received.push((from, message));
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, u64>) {
        self.timers.push((id, ctx.now()));
    }

    fn synced(&mut self, token: u64, ctx: &mut Context<'_, u64>) {
        self.synced.push((token, ctx.now()));
    }
}

fn recorders(seed: u64, nodes: usize) -> Simulation<Recorder> {
    Simulation::new(seed, nodes, Settings::default(), |_, disk| Recorder {
        found: disk.read("log").to_vec(),
        ..Recorder::default()
    })
}

fn send(sim: &mut Simulation<Recorder>, from: NodeId, to: NodeId, messages: std::ops::Range<u64>) {
    sim.with(from, |_, ctx| messages.for_each(|message| ctx.send(to, message)));
}

fn received(sim: &Simulation<Recorder>, node: NodeId) -> Vec<u64> {
    sim.process(node).unwrap().received.iter().map(|(_, message)| *message).collect()
}

/// Talks, writes and waits, all by chance.
struct Chatter;

impl Process for Chatter {
    type Message = u64;

    fn start(&mut self, ctx: &mut Context<'_, u64>) {
        ctx.set_timer(ms(1), 0);
    }

    fn receive(&mut self, from: NodeId, message: u64, ctx: &mut Context<'_, u64>) {
        if message.is_multiple_of(3) {
            ctx.send(from, message + 1);
        }
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, u64>) {
        let to = usize::try_from(ctx.random().below(3)).unwrap();
        let message = ctx.random().next();
        ctx.send(to, message);
        let bytes = message.to_le_bytes();
        ctx.append("log", &bytes).unwrap();
        ctx.sync(id);
        let after = ctx.random().duration(ms(1), ms(9));
        ctx.set_timer(after, id + 1);
    }

    fn synced(&mut self, token: u64, ctx: &mut Context<'_, u64>) {
        ctx.mark(token);
    }
}

fn chat(seed: u64) -> (u64, Vec<String>, Vec<u8>) {
    let conditions = NetworkConditions {
        loss: 50,
        duplicates: 50,
        reorder: 50,
        reorder_extra: ms(20),
        ..NetworkConditions::default()
    };
    let settings = Settings { network_conditions: conditions, ..Settings::default() };
    let mut sim = Simulation::new(seed, 3, settings, |_, _| Chatter);
    sim.keep_log(true);
    sim.run_until(ms(500));
    sim.crash(1);
    sim.run_until(ms(600));
    sim.restart(1);
    sim.pause(2);
    sim.run_until(ms(700));
    sim.resume(2);
    sim.run_until(ms(1000));
    (sim.trace_hash(), sim.log().to_vec(), sim.disk(1).read("log").to_vec())
}

#[test]
fn everything_follows_from_the_seed() {
    assert_eq!(chat(1), chat(1));
    let (one, two) = (chat(1), chat(2));
    assert_ne!(one.0, two.0);
    assert_ne!(one.1, two.1);
    let hashes: std::collections::BTreeSet<u64> = (0..50).map(|seed| chat(seed).0).collect();
    assert_eq!(hashes.len(), 50);
}

#[test]
fn marks_and_calls_from_outside_change_the_hash() {
    let run = |mark: Option<u64>| {
        let mut sim = recorders(1, 1);
        sim.run_until(ms(1));
        if let Some(mark) = mark {
            sim.with(0, |_, ctx| ctx.mark(mark));
        }
        sim.trace_hash()
    };
    assert_ne!(run(None), run(Some(1)));
    assert_ne!(run(Some(1)), run(Some(2)));
    assert_eq!(run(Some(1)), run(Some(1)));
}

#[test]
fn the_log_tells_what_happened_and_does_not_change_it() {
    let run = |log: bool| {
        let mut sim = recorders(1, 2);
        sim.keep_log(log);
        send(&mut sim, 0, 1, 7..8);
        sim.with(1, |_, ctx| ctx.set_timer(ms(1500), 3));
        sim.run_until(ms(2000));
        sim.crash(1);
        (sim.trace_hash(), sim.log().join("\n"))
    };
    let (hash, log) = run(true);
    for part in [
        "node 0: hello from 0",
        "node 1 <- 0: 7",
        "[    1.500000s] node 1: timer 3",
        "[    2.000000s] node 1: crashed",
    ] {
        assert!(log.contains(part), "{part:?} is not in\n{log}");
    }
    assert_eq!(run(false), (hash, String::new()));
}

#[test]
fn a_kept_log_has_a_bound() {
    let settings = Settings { log_lines_max: 10, ..Settings::default() };
    let mut sim = Simulation::new(1, 2, settings, |_, _| Recorder::default());
    sim.keep_log(true);
    send(&mut sim, 0, 1, 0..1000);
    sim.run_until(ms(100));
    assert!((10..=20).contains(&sim.log().len()));
    assert!(sim.log().last().unwrap().ends_with("node 1 <- 0: 999"));
}

#[test]
fn the_loss_is_as_set() {
    let mut sim = recorders(3, 2);
    sim.network().set_loss(200);
    send(&mut sim, 0, 1, 0..10_000);
    sim.run_until(ms(1000));
    let arrived = received(&sim, 1).len();
    assert!((7_700..8_300).contains(&arrived), "{arrived}");
    let statistics = sim.statistics();
    assert_eq!((statistics.sent, statistics.delivered), (10_000, arrived as u64));
    assert_eq!(statistics.lost, 10_000 - arrived as u64);
}

#[test]
fn messages_to_oneself_arrive_and_take_time() {
    let mut sim = recorders(3, 2);
    sim.network().set_loss(1000);
    sim.network().isolate(0);
    send(&mut sim, 0, 0, 0..100);
    assert!(received(&sim, 0).is_empty());
    sim.run_until(ms(10));
    assert_eq!(received(&sim, 0), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_cut_holds_in_one_direction() {
    let mut sim = recorders(4, 2);
    sim.network().cut(0, 1);
    send(&mut sim, 0, 1, 0..10);
    send(&mut sim, 1, 0, 0..10);
    sim.run_until(ms(100));
    assert_eq!((received(&sim, 0).len(), received(&sim, 1).len()), (10, 0));
    sim.network().heal(0, 1);
    send(&mut sim, 0, 1, 0..10);
    sim.run_until(ms(200));
    assert_eq!(received(&sim, 1).len(), 10);
}

#[test]
fn a_cut_loses_what_is_under_way() {
    let mut sim = recorders(4, 2);
    send(&mut sim, 0, 1, 0..10);
    sim.network().partition(&[&[0], &[1]]);
    sim.run_until(ms(100));
    assert!(received(&sim, 1).is_empty());
    assert_eq!(sim.statistics().lost, 10);
}

#[test]
fn duplicates_come_twice() {
    let mut sim = recorders(5, 2);
    sim.network().set_duplicates(500);
    send(&mut sim, 0, 1, 0..1000);
    sim.run_until(ms(1000));
    let arrived = received(&sim, 1);
    assert!((1_400..1_600).contains(&arrived.len()), "{}", arrived.len());
    assert!((0..1000).all(|message| arrived.contains(&message)));
    assert_eq!(sim.statistics().duplicated + 1000, arrived.len() as u64);
}

#[test]
fn order_is_kept_until_it_is_not() {
    let mut sim = recorders(6, 2);
    send(&mut sim, 0, 1, 0..1000);
    sim.run_until(ms(100));
    assert!(received(&sim, 1).is_sorted());
    sim.network().set_reorder(100, ms(50));
    send(&mut sim, 0, 1, 1000..2000);
    sim.run_until(ms(1000));
    let arrived = received(&sim, 1);
    assert!(!arrived.is_sorted() && arrived.len() == 2000);
}

#[test]
fn a_crash_loses_memory_timers_and_messages_under_way() {
    let mut sim = recorders(7, 2);
    sim.run_until(ms(1));
    sim.with(1, |process, ctx| {
        process.timers.push((0, ctx.now()));
        ctx.set_timer(ms(5), 1);
        ctx.sync(1);
    });
    send(&mut sim, 0, 1, 0..10);
    sim.crash(1);
    sim.crash(1);
    assert!(!sim.is_up(1) && sim.process(1).is_none() && sim.with(1, |_, _| ()).is_none());
    sim.restart(1);
    sim.restart(1);
    sim.run_until(ms(100));
    let process = sim.process(1).unwrap();
    assert!(process.timers.is_empty() && process.received.is_empty() && process.synced.is_empty());
    let statistics = sim.statistics();
    assert_eq!((statistics.crashes, statistics.restarts, statistics.lost), (1, 1, 10));
    send(&mut sim, 0, 1, 0..10);
    sim.run_until(ms(200));
    assert_eq!(received(&sim, 1).len(), 10);
}

#[test]
fn datagrams_outlive_a_crash_if_so_set() {
    let settings = Settings { messages_outlive_crashes: true, ..Settings::default() };
    let mut sim = Simulation::new(7, 2, settings, |_, _| Recorder::default());
    send(&mut sim, 0, 1, 0..10);
    sim.crash(1);
    sim.restart(1);
    sim.run_until(ms(100));
    assert_eq!(received(&sim, 1).len(), 10);
    send(&mut sim, 0, 1, 0..10);
    sim.crash(1);
    sim.run_until(ms(200));
    sim.restart(1);
    sim.run_until(ms(300));
    assert_eq!(received(&sim, 1).len(), 0);
}

#[test]
fn what_is_synced_survives_and_what_is_not_may_be_torn() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut sim = recorders(seed, 1);
        sim.with(0, |_, ctx| {
            ctx.append("log", b"durable").unwrap();
            ctx.sync(1);
        });
        sim.run_until(ms(10));
        assert_eq!(sim.process(0).unwrap().synced.len(), 1);
        sim.with(0, |_, ctx| {
            ctx.append("log", &[0; 20]).unwrap();
            ctx.sync(2);
            assert_eq!(ctx.read("log").len(), 27);
        });
        sim.crash(0);
        sim.restart(0);
        let found = &sim.process(0).unwrap().found;
        assert!(found.starts_with(b"durable"));
        lengths.insert(found.len());
        assert_eq!(sim.disk(0).read("log").len(), sim.disk(0).synced("log").len());
    }
    assert!(lengths.contains(&7) && lengths.contains(&27) && lengths.len() > 10, "{lengths:?}");
}

#[test]
fn syncs_take_the_time_of_the_disk_and_finish_in_order() {
    let mut sim = recorders(8, 1);
    sim.disk(0).set_delay(ms(10), ms(30));
    sim.with(0, |_, ctx| (0..20).for_each(|token| ctx.sync(token)));
    sim.run_until(ms(100));
    let synced = &sim.process(0).unwrap().synced;
    assert_eq!(synced.iter().map(|(token, _)| *token).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(synced.iter().all(|(_, at)| (ms(10)..=ms(30)).contains(at)));
}

#[test]
fn a_replaced_file_is_old_or_new() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let mut sim = recorders(seed, 1);
        sim.with(0, |_, ctx| {
            ctx.replace("log", b"old".to_vec()).unwrap();
            ctx.sync(0);
        });
        sim.run_until(ms(10));
        sim.with(0, |_, ctx| ctx.replace("log", b"new".to_vec()).unwrap());
        sim.crash(0);
        sim.restart(0);
        seen.insert(sim.process(0).unwrap().found.clone());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [b"new", b"old"]);
}

#[test]
fn a_full_disk_is_an_error_and_a_process_may_give_up() {
    let mut sim = recorders(9, 1);
    sim.disk(0).set_full(true);
    let refused = sim.with(0, |_, ctx| {
        ctx.halt();
        ctx.append("log", b"more")
    });
    assert_eq!(refused, Some(Err(DiskError::Full)));
    assert!(!sim.is_up(0));
    sim.disk(0).set_full(false);
    sim.restart(0);
    assert!(sim.is_up(0));
    assert_eq!(sim.with(0, |_, ctx| ctx.append("log", b"more")), Some(Ok(())));
}

#[test]
fn a_paused_process_gets_everything_later_and_in_order() {
    let mut sim = recorders(10, 2);
    sim.run_until(ms(1));
    sim.with(1, |_, ctx| {
        ctx.set_timer(ms(5), 1);
        ctx.append("log", b"written").unwrap();
        ctx.sync(1);
    });
    sim.pause(1);
    assert!(sim.is_up(1) && sim.is_paused(1) && sim.with(1, |_, _| ()).is_none());
    send(&mut sim, 0, 1, 0..10);
    sim.run_until(ms(50));
    let process = sim.process(1).unwrap();
    assert!(process.received.is_empty() && process.timers.is_empty() && process.synced.is_empty());
    assert_eq!(sim.disk(1).synced("log"), b"written");
    sim.network().isolate(1);
    sim.resume(1);
    sim.run_until(ms(51));
    assert_eq!(received(&sim, 1), (0..10).collect::<Vec<_>>());
    let process = sim.process(1).unwrap();
    assert_eq!(process.timers, [(1, ms(50))]);
    assert_eq!(process.synced, [(1, ms(50))]);
}

#[test]
fn a_crash_ends_a_pause_and_what_was_held_back() {
    let mut sim = recorders(11, 2);
    sim.pause(1);
    send(&mut sim, 0, 1, 0..10);
    sim.run_until(ms(50));
    sim.crash(1);
    sim.restart(1);
    sim.run_until(ms(100));
    assert!(!sim.is_paused(1));
    assert!(received(&sim, 1).is_empty());
    assert_eq!(sim.statistics().lost, 10);
}

#[test]
fn timers_drift_with_the_clock_and_do_not_jump_with_it() {
    let mut sim = recorders(12, 3);
    sim.clock(0).set_drift_ppm(100_000);
    sim.clock(1).set_drift_ppm(-100_000);
    for node in 0..3 {
        sim.with(node, |_, ctx| ctx.set_timer(ms(9_900), 1));
    }
    sim.clock(2).jump(-5_000);
    sim.run_until(ms(5_000));
    sim.clock(2).jump(7_000);
    sim.run_until(ms(20_000));
    let fired = |node: NodeId| sim.process(node).unwrap().timers[0].1;
    assert_eq!((fired(0), fired(1), fired(2)), (ms(9_000), ms(11_000), ms(9_900)));
    let local: Vec<_> = (0..3).map(|node| sim.with(node, |_, ctx| ctx.local_time()).unwrap()).collect();
    assert_eq!(local, [ms(22_000), ms(18_000), ms(22_000)]);
}

#[test]
fn processes_are_there_before_they_start_and_start_once() {
    let mut sim = recorders(13, 1);
    sim.keep_log(true);
    assert!(sim.process(0).is_some());
    sim.with(0, |_, _| ());
    sim.run_until(ms(1));
    assert_eq!(sim.log().iter().filter(|line| line.contains("hello")).count(), 1);
}

#[test]
fn a_run_ends_where_it_is_told_to() {
    let mut sim = recorders(14, 2);
    send(&mut sim, 0, 1, 0..10);
    assert!(sim.run_while(ms(100), |sim| received(sim, 1).len() < 4));
    assert_eq!(received(&sim, 1).len(), 4);
    assert!(!sim.run_while(ms(100), |_| true));
    assert!(sim.now() < ms(10) && sim.next_event().is_none() && !sim.step());
    sim.run_until(ms(100));
    assert_eq!(sim.now(), ms(100));
    assert_eq!(sim.statistics().delivered, 10);
}
