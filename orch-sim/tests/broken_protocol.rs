//! A protocol with a known fault, which the simulation and the checkers have to find, beside the same
//! protocol without it, of which they must not complain.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use orch_sim::history::{
    History, KeyValue, KeyValueInput, KeyValueOutput, OpId, Violation, just_in_time, wing_gong_lowe,
};
use orch_sim::{Context, Disk, Nemesis, NemesisSettings, NodeId, Process, Random, Settings, Simulation};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const PRIMARY: NodeId = 0;
const BACKUP: NodeId = 1;
const CLIENTS: std::ops::Range<NodeId> = 2..5;
const FILE: &str = "register";
/// The timer with which a client waits before it asks again; its other timers are the numbers of its
/// requests.
const THINK: u64 = 0;
const END: Duration = ms(20_000);

type Shared = Rc<RefCell<History<KeyValueInput, KeyValueOutput>>>;

/// Time at which the primary answers a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    /// Once it is on its disk.
    Synced,
    /// At once, which is the fault.
    Promised,
}

/// Replica that answers reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Primary,
    /// Also the backup, which may lag: the fault.
    Anybody,
}

#[derive(Clone, Debug)]
enum Message {
    Ask { request: u64, input: KeyValueInput },
    Tell { request: u64, output: KeyValueOutput },
    Copy { version: u64, value: Option<u64> },
}

enum Node {
    Replica(Replica),
    Client(Client),
}

/// One register. Its file has version and value.
struct Replica {
    value: Option<u64>,
    version: u64,
    durability: Durability,
    /// Answers that wait for the sync of the same number.
    waiting: Vec<(u64, NodeId, u64, KeyValueOutput)>,
    syncs: u64,
    /// The last request of each node, as the network may bring one twice.
    asked: [u64; CLIENTS.end],
}

impl Replica {
    fn recover(disk: &Disk, durability: Durability) -> Self {
        let number = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        let (version, value) = match disk.read(FILE).as_chunks::<8>().0 {
            [version, value] => (number(version), Some(number(value))),
            _ => (0, None),
        };
        Self { value, version, durability, waiting: Vec::new(), syncs: 0, asked: [0; CLIENTS.end] }
    }

    fn ask(&mut self, from: NodeId, request: u64, input: KeyValueInput, ctx: &mut Context<'_, Message>) {
        if request <= self.asked[from] {
            return;
        }
        self.asked[from] = request;
        let (value, output) = orch_sim::history::Model::apply(&KeyValue, &self.value, &input);
        if value != self.value
            && let Some(new) = value
        {
            self.value = value;
            self.version += 1;
            if ctx.replace(FILE, [self.version.to_le_bytes(), new.to_le_bytes()].concat()).is_err() {
                return ctx.halt();
            }
            ctx.send(BACKUP, Message::Copy { version: self.version, value });
        }
        self.syncs += 1;
        ctx.sync(self.syncs);
        match self.durability {
            Durability::Synced => self.waiting.push((self.syncs, from, request, output)),
            Durability::Promised => ctx.send(from, Message::Tell { request, output }),
        }
    }
}

/// Asks one thing after the other, and asks no more about what was not answered in time.
struct Client {
    history: Shared,
    reads: Reads,
    open: Option<(u64, OpId)>,
    requests: u64,
}

impl Client {
    fn ask(&mut self, ctx: &mut Context<'_, Message>) {
        if ctx.now() > END {
            return;
        }
        self.requests += 1;
        let value = self.requests * 10 + ctx.node() as u64;
        let input = match ctx.random().below(3) {
            0 => KeyValueInput::Put { key: 0, value },
            _ => KeyValueInput::Get { key: 0 },
        };
        let reader = match (input, self.reads) {
            (KeyValueInput::Get { .. }, Reads::Anybody) if ctx.random().chance(500) => BACKUP,
            _ => PRIMARY,
        };
        let id = self.history.borrow_mut().invoke(ctx.node() as u64, ctx.now(), input);
        self.open = Some((self.requests, id));
        ctx.send(reader, Message::Ask { request: self.requests, input });
        ctx.set_timer(ms(100), self.requests);
    }
}

impl Process for Node {
    type Message = Message;

    fn start(&mut self, ctx: &mut Context<'_, Message>) {
        if let Self::Client(client) = self {
            client.ask(ctx);
        }
    }

    fn receive(&mut self, from: NodeId, message: Message, ctx: &mut Context<'_, Message>) {
        match (self, message) {
            (Self::Replica(replica), Message::Ask { request, input }) => {
                replica.ask(from, request, input, ctx);
            }
            (Self::Replica(replica), Message::Copy { version, value }) if version > replica.version => {
                (replica.version, replica.value) = (version, value);
            }
            (Self::Client(client), Message::Tell { request, output }) => {
                if let Some((_, id)) = client.open.take_if(|(open, _)| *open == request) {
                    client.history.borrow_mut().complete(id, ctx.now(), output);
                    let after = ctx.random().duration(ms(1), ms(30));
                    ctx.set_timer(after, THINK);
                }
            }
            _ => {}
        }
    }

    fn timer(&mut self, id: u64, ctx: &mut Context<'_, Message>) {
        if let Self::Client(client) = self
            && (id == THINK || client.open.take_if(|(open, _)| *open == id).is_some())
        {
            client.ask(ctx);
        }
    }

    fn synced(&mut self, token: u64, ctx: &mut Context<'_, Message>) {
        let Self::Replica(replica) = self else { return };
        for (_, to, request, output) in replica.waiting.extract_if(.., |(sync, ..)| *sync <= token) {
            ctx.send(to, Message::Tell { request, output });
        }
    }
}

fn run(seed: u64, durability: Durability, reads: Reads, faults: NemesisSettings) -> Result<usize, Violation> {
    let history = Shared::default();
    let shared = Rc::clone(&history);
    // Slow enough that a fault often comes between a promise and its fulfilment.
    let settings = Settings { disk_delay: ms(5)..=ms(30), ..Settings::default() };
    let mut sim = Simulation::new(seed, CLIENTS.end, settings, move |node, disk| match node {
        PRIMARY | BACKUP => Node::Replica(Replica::recover(disk, durability)),
        _ => Node::Client(Client { history: Rc::clone(&shared), reads, open: None, requests: 0 }),
    });
    sim.network().set_link_delay(PRIMARY, BACKUP, Some(ms(20)..=ms(60)));
    let mut nemesis = Nemesis::new(Random::new(seed), faults);
    nemesis.run(&mut sim, END);
    nemesis.heal(&mut sim);
    sim.run_until(END + ms(1_000));
    let history = history.borrow();
    let verdict = wing_gong_lowe(&KeyValue, &history);
    let second = just_in_time(&KeyValue, &history);
    assert_eq!(
        verdict.as_ref().err().map(Violation::operation),
        second.as_ref().err().map(Violation::operation)
    );
    verdict.map(|()| history.completed())
}

fn faults() -> NemesisSettings {
    NemesisSettings { end: END, spared: CLIENTS.collect(), ..NemesisSettings::default() }
}

#[test]
fn the_sound_protocol_is_linearizable_whatever_happens() {
    for seed in 0..20 {
        let completed = run(seed, Durability::Synced, Reads::Primary, faults());
        assert!(completed.unwrap_or_else(|violation| panic!("seed {seed}: {violation}")) > 200);
    }
}

#[test]
fn a_promise_without_a_sync_is_found_once_a_crash_comes() {
    let crashes = NemesisSettings {
        crashes: true,
        interval: ms(200)..=ms(1_000),
        length: ms(50)..=ms(200),
        ..faults().quiet()
    };
    for seed in 0..10 {
        run(seed, Durability::Promised, Reads::Primary, crashes.clone()).unwrap_err();
        run(seed, Durability::Synced, Reads::Primary, crashes.clone()).unwrap();
    }
    let crashless = NemesisSettings { crashes: false, full_disks: false, ..faults() };
    for seed in 0..5 {
        run(seed, Durability::Promised, Reads::Primary, crashless.clone()).unwrap();
    }
}

#[test]
fn a_stale_read_is_found_without_any_fault() {
    for seed in 0..5 {
        let violation = run(seed, Durability::Synced, Reads::Anybody, faults().quiet()).unwrap_err();
        assert!(violation.to_string().contains("Get"), "{violation}");
    }
}
