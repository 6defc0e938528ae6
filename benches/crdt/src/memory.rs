//! The core of orch's store with tables in memory: everything but disk and network.

use std::{collections::VecDeque, time::Duration};

use orch_core::{
    model::Timestamp,
    store::{Key, Txn, Write},
};
use orch_store::crdt::{AuthorKey, Effect, Hash, MemoryTables, Message, Moment, Replica, ReplicaConfig};

use crate::{Failure, Pair, TOGETHER, key, value};

/// Two replicas.
pub struct Memory {
    replicas: Vec<(Replica, MemoryTables)>,
    elapsed: Duration,
}

pub(crate) fn config() -> ReplicaConfig {
    let members = [1, 2].map(|seed| AuthorKey::from_seed(&[seed; 32]).author()).to_vec();
    ReplicaConfig {
        hear_first: 0,
        patience: Duration::ZERO,
        ..ReplicaConfig::new(Hash::of(b"benches"), members)
    }
}

pub(crate) fn txn(first: usize, count: usize, byte: u8) -> Result<Txn, Failure> {
    let writes: Result<_, _> =
        (first..first + count).map(|at| Key::new(key(at)).map(|key| Write::put(key, value(byte)))).collect();
    Ok(Txn::of(writes?))
}

impl Memory {
    fn now(&self) -> Moment {
        Moment { elapsed: self.elapsed, wall: Timestamp::now() }
    }

    /// Ticks of both, and every message, until nothing more comes.
    fn talk(&mut self) -> Result<usize, Failure> {
        let mut bytes = 0;
        self.elapsed += Duration::from_secs(1);
        let now = self.now();
        let mut messages: VecDeque<(usize, Message)> = VecDeque::new();
        for at in 0..2 {
            let (replica, tables) = &mut self.replicas[at];
            let mut out = Vec::new();
            replica.tick(tables, now, [7; 16], &mut out)?;
            push(at, out, &mut messages);
        }
        while let Some((from, message)) = messages.pop_front() {
            let encoded = message.encode();
            bytes += encoded.len();
            let author = self.replicas[from].0.author_id();
            let (replica, tables) = &mut self.replicas[1 - from];
            let mut out = Vec::new();
            replica.receive(tables, now, author, Message::decode(encoded.into())?, &mut out)?;
            push(1 - from, out, &mut messages);
        }
        Ok(bytes)
    }
}

fn push(from: usize, out: Vec<Effect>, messages: &mut VecDeque<(usize, Message)>) {
    for effect in out {
        if let Effect::Send(_, message) = effect {
            messages.push_back((from, message));
        }
    }
}

impl Pair for Memory {
    fn new() -> Result<Self, Failure> {
        let open = |seed: u8| {
            let mut tables = MemoryTables::default();
            let replica = Replica::open(&mut tables, config(), AuthorKey::from_seed(&[seed; 32]))??;
            Ok::<_, Failure>((replica, tables))
        };
        Ok(Self { replicas: vec![open(1)?, open(2)?], elapsed: Duration::ZERO })
    }

    fn put(&mut self, copy: usize, first: usize, count: usize, byte: u8) -> Result<(), Failure> {
        let now = self.now();
        for at in (first..first + count).step_by(TOGETHER) {
            let txn = txn(at, TOGETHER.min(first + count - at), byte)?;
            let (replica, tables) = &mut self.replicas[copy];
            // Nobody hears of it yet.
            replica.write(tables, now, [txn], &mut Vec::new())?;
        }
        Ok(())
    }

    fn merge(&mut self) -> Result<usize, Failure> {
        self.talk()
    }

    fn size(&mut self) -> Result<u64, Failure> {
        for _ in 0..200 {
            self.talk()?;
        }
        Ok(self.replicas[0].1.segments().1 as u64)
    }

    fn keys(&self, copy: usize) -> Result<usize, Failure> {
        Ok(self.replicas[copy].1.records())
    }
}
