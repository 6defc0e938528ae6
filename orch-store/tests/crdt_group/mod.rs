//! Replicas in one process, with messages that are lost, repeated and shuffled as a seed says.
#![allow(unreachable_pub, dead_code, reason = "several tests share it, and none uses all")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
    time::Duration,
};

use bytes::Bytes;
use orch_core::{
    model::Timestamp,
    store::{Key, Txn, Write},
    transport::PeerId,
};
use orch_store::crdt::{
    AuthorKey, Decision, Effect, Event, Hash, Head, MemoryTables, Message, Moment, ReadLevel, Replica,
    ReplicaConfig, Segment, Stamp, Tables, TxnOutcome,
};

pub const BEGIN: u64 = 1_700_000_000_000;
const TICK: Duration = Duration::from_millis(200);

pub fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

pub fn put(at: &str, value: &str) -> Txn {
    Txn::of(vec![Write::put(key(at), Bytes::copy_from_slice(value.as_bytes()))])
}

pub fn delete(at: &str) -> Txn {
    Txn::of(vec![Write::delete(key(at))])
}

#[derive(Clone, Copy, Default)]
pub struct Chaos {
    pub loss: u64,
    pub duplicate: u64,
    pub shuffle: bool,
}

pub struct Member {
    pub replica: Replica,
    pub tables: MemoryTables,
    pub skew: Duration,
    seed: u8,
    id: PeerId,
    events: Vec<Event>,
    gone: bool,
}

pub struct Group {
    pub config: ReplicaConfig,
    pub members: Vec<Member>,
    pub chaos: Chaos,
    elapsed: Duration,
    /// From and to are numbers of members.
    network: Vec<(usize, usize, Bytes)>,
    cut: BTreeSet<(usize, usize)>,
    random: u64,
    decisions: Vec<Decision>,
}

impl Group {
    pub fn new(members: u8, seed: u64) -> Self {
        let ids = (1..=members).map(|seed| AuthorKey::from_seed(&[seed; 32]).author()).collect();
        let mut config = ReplicaConfig::new(Hash::of(b"a group of tests"), ids);
        config.message_bytes = 2000;
        (config.request_grace, config.answer_timeout) = (TICK, TICK * 2);
        let mut group = Self {
            config,
            members: Vec::new(),
            chaos: Chaos::default(),
            elapsed: Duration::ZERO,
            network: Vec::new(),
            cut: BTreeSet::new(),
            random: seed,
            decisions: Vec::new(),
        };
        for seed in 1..=members {
            group.add(seed);
        }
        group.exchange_digests();
        group
    }

    /// Begins anew after a change of the configuration.
    pub fn rebuild(&mut self) {
        let seeds: Vec<_> = self.members.iter().map(|member| member.seed).collect();
        self.members.clear();
        self.network.clear();
        seeds.into_iter().for_each(|seed| self.add(seed));
        self.exchange_digests();
    }

    /// Everybody has a digest of everybody, so that all may write.
    fn exchange_digests(&mut self) {
        for member in 0..self.members.len() {
            self.tick(member);
        }
        self.deliver_all();
        self.members.iter_mut().for_each(|member| member.events.clear());
    }

    fn add(&mut self, seed: u8) {
        let mut tables = MemoryTables::default();
        let key = AuthorKey::from_seed(&[seed; 32]);
        let id = key.author();
        let replica = Replica::open(&mut tables, self.config.clone(), key).unwrap().unwrap();
        let skew = Duration::ZERO;
        self.members.push(Member { replica, tables, skew, seed, id, events: Vec::new(), gone: false });
    }

    /// Somebody who is no member yet, and knows of all decisions.
    pub fn newcomer(&mut self, seed: u8) -> usize {
        self.add(seed);
        let new = self.members.len() - 1;
        for (number, decision) in (1..).zip(self.decisions.clone()) {
            let (member, mut out) = (&mut self.members[new], Vec::new());
            member.replica.decide(&mut member.tables, number, decision, &mut out).unwrap().unwrap();
        }
        new
    }

    /// A second process with the key and the disk of a member.
    pub fn twin(&mut self, of: usize) -> usize {
        let (seed, tables) = (self.members[of].seed, self.members[of].tables.clone());
        self.add(seed);
        let twin = self.members.len() - 1;
        self.members[twin].tables = tables;
        self.config.startup_quorum = 0;
        self.restart(twin);
        self.config.startup_quorum = 1;
        twin
    }

    pub fn remove(&mut self, member: usize) {
        self.members[member].gone = true;
    }

    /// The same member with another key.
    pub fn rekey(&mut self, member: usize, seed: u8) -> PeerId {
        let key = AuthorKey::from_seed(&[seed; 32]);
        (self.members[member].seed, self.members[member].id) = (seed, key.author());
        self.restart(member);
        key.author()
    }

    pub fn id(&self, member: usize) -> PeerId {
        self.members[member].id
    }

    fn now(&self, member: usize) -> Moment {
        let wall = Timestamp::from_millis(BEGIN).after(self.elapsed).after(self.members[member].skew);
        Moment { elapsed: self.elapsed, wall }
    }

    pub fn advance(&mut self, duration: Duration) {
        self.elapsed += duration;
    }

    pub fn write(&mut self, member: usize, txn: Txn) -> TxnOutcome {
        let now = self.now(member);
        let (at, mut out) = (&mut self.members[member], Vec::new());
        let outcomes = at.replica.write(&mut at.tables, now, [txn], &mut out).unwrap();
        self.carry_out(member, out);
        outcomes.into_iter().next().unwrap()
    }

    /// Writes, and returns what would have been sent to one member instead of sending it.
    pub fn write_and_take(&mut self, member: usize, txn: Txn, to: usize) -> Vec<(PeerId, Message)> {
        let before = self.network.len();
        self.write(member, txn);
        let from = self.id(member);
        let sent = self.network.split_off(before);
        let sent = sent.into_iter().filter(|(_, other, _)| *other == to);
        sent.map(|(_, _, bytes)| (from, Message::decode(bytes).unwrap())).collect()
    }

    /// Messages that a member sent and nobody received yet.
    pub fn take_messages(&mut self, from: usize) -> Vec<(PeerId, Message)> {
        let id = self.id(from);
        let (taken, rest) = std::mem::take(&mut self.network).into_iter().partition(|sent| sent.0 == from);
        self.network = rest;
        let taken: Vec<(usize, usize, Bytes)> = taken;
        taken.into_iter().map(|(_, _, bytes)| (id, Message::decode(bytes).unwrap())).collect()
    }

    /// Loses everything that is on its way.
    pub fn take_all_messages(&mut self) {
        self.network.clear();
    }

    /// The next segment of a member, signed with its key but not by its replica.
    pub fn forge(&mut self, member: usize, writes: Vec<Write>) -> Message {
        self.forge_at(member, writes, self.now(member).wall.after(TICK))
    }

    /// The same, with the stamp of any time.
    pub fn forge_at(&mut self, member: usize, writes: Vec<Write>, time: Timestamp) -> Message {
        let key = AuthorKey::from_seed(&[self.members[member].seed; 32]);
        let previous = self.head(member, member);
        let segment = Segment::sign(&key, self.config.group, previous, Stamp::at(time), writes);
        let (author, after) = (key.author(), previous.position);
        Message::Supply { author, after, more: false, segments: vec![segment.encode().into()] }
    }

    /// Time of the system's clocks.
    pub fn wall(&self) -> Timestamp {
        Timestamp::from_millis(BEGIN).after(self.elapsed)
    }

    pub fn give(&mut self, member: usize, from: PeerId, message: Message) {
        let now = self.now(member);
        let (at, mut out) = (&mut self.members[member], Vec::new());
        at.replica.receive(&mut at.tables, now, from, message, &mut out).unwrap();
        self.carry_out(member, out);
    }

    pub fn tick(&mut self, member: usize) {
        if self.members[member].gone {
            return;
        }
        let now = self.now(member);
        let nonce = u128::from(self.next_random()).to_le_bytes();
        let (at, mut out) = (&mut self.members[member], Vec::new());
        at.replica.tick(&mut at.tables, now, nonce, &mut out).unwrap();
        self.carry_out(member, out);
    }

    /// The process ends, and begins again with what is on its disk.
    pub fn restart(&mut self, member: usize) {
        let at = &mut self.members[member];
        let key = AuthorKey::from_seed(&[at.seed; 32]);
        at.replica = Replica::open(&mut at.tables, self.config.clone(), key).unwrap().unwrap();
    }

    pub fn next_decision(&self) -> u64 {
        self.decisions.len() as u64 + 1
    }

    /// Everybody applies a decision.
    pub fn decide(&mut self, decision: Decision) {
        let number = self.next_decision();
        for member in 0..self.members.len() {
            let (at, mut out) = (&mut self.members[member], Vec::new());
            at.replica.decide(&mut at.tables, number, decision.clone(), &mut out).unwrap().unwrap();
            self.carry_out(member, out);
        }
        self.decisions.push(decision);
    }

    fn carry_out(&mut self, member: usize, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Applied(_) => {}
                Effect::Event(event) => self.members[member].events.push(event),
                Effect::Send(to, message) => {
                    let bytes = Bytes::from(message.encode());
                    let to = (0..self.members.len()).filter(|at| self.members[*at].id == to && *at != member);
                    for to in to.collect::<Vec<_>>() {
                        let cut = self.cut.contains(&(member, to)) || self.members[to].gone;
                        if cut || self.next_random() % 100 < self.chaos.loss {
                            continue;
                        }
                        self.network.push((member, to, bytes.clone()));
                        if self.next_random() % 100 < self.chaos.duplicate {
                            self.network.push((member, to, bytes.clone()));
                        }
                    }
                }
            }
        }
    }

    pub fn deliver(&mut self, count: usize) {
        for _ in 0..count {
            if self.network.is_empty() {
                return;
            }
            let random = usize::try_from(self.next_random() >> 1).unwrap();
            let at = if self.chaos.shuffle { random % self.network.len() } else { 0 };
            let (from, to, bytes) = self.network.remove(at);
            if !self.members[from].gone {
                self.give(to, self.members[from].id, Message::decode(bytes).unwrap());
            }
        }
    }

    pub fn deliver_all(&mut self) {
        while !self.network.is_empty() {
            self.deliver(1);
        }
    }

    /// A few rounds in which everything arrives.
    pub fn settle(&mut self) {
        for _ in 0..12 {
            self.advance(TICK);
            for member in 0..self.members.len() {
                self.tick(member);
            }
            self.deliver_all();
        }
    }

    pub fn partition(&mut self, groups: &[&[usize]]) {
        for (at, group) in groups.iter().enumerate() {
            for other in groups.iter().enumerate().filter(|(other, _)| *other != at).flat_map(|(_, g)| *g) {
                self.cut.extend(group.iter().map(|member| (*member, *other)));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.chaos = Chaos::default();
    }

    pub fn read(&self, member: usize, at: &str) -> Option<Bytes> {
        self.read_at(member, at, ReadLevel::Optimistic)
    }

    pub fn read_at(&self, member: usize, at: &str, level: ReadLevel) -> Option<Bytes> {
        self.members[member].replica.read(&self.members[member].tables, &key(at), level).unwrap()
    }

    pub fn digest(&self, member: usize) -> Hash {
        self.members[member].replica.digest(&self.members[member].tables).unwrap()
    }

    pub fn events(&self, member: usize) -> &[Event] {
        &self.members[member].events
    }

    /// Records that readers observe.
    pub fn view(&self, member: usize) -> BTreeMap<String, Bytes> {
        let mut keys = Vec::new();
        let visit = &mut |key: &str, _| {
            keys.push(key.to_owned());
            std::ops::ControlFlow::Continue(())
        };
        self.members[member].tables.each_record(std::ops::Bound::Unbounded, visit).unwrap();
        keys.into_iter().filter_map(|key| self.read(member, &key).map(|value| (key, value))).collect()
    }

    pub fn assert_equal(&self) {
        let here: Vec<_> = (0..self.members.len()).filter(|member| !self.members[*member].gone).collect();
        for pair in here.windows(2) {
            assert_eq!(self.view(pair[0]), self.view(pair[1]), "members {pair:?} see different things");
            assert_eq!(self.digest(pair[0]), self.digest(pair[1]), "members {pair:?}");
            assert_eq!(
                self.confirmed(pair[0]),
                self.confirmed(pair[1]),
                "members {pair:?} confirm different things"
            );
        }
    }

    /// All that is confirmed at a member, deleted keys too that somebody still says something of.
    pub fn confirmed(&self, member: usize) -> BTreeMap<String, Bytes> {
        let mut keys = Vec::new();
        let tables = &self.members[member].tables;
        let visit = &mut |key: &str, _| {
            keys.push(key.to_owned());
            ControlFlow::Continue(())
        };
        tables.each_record(Bound::Unbounded, visit).unwrap();
        let read = |key: String| Some((key.clone(), self.read_at(member, &key, ReadLevel::Confirmed)?));
        keys.into_iter().filter_map(read).collect()
    }

    pub fn head(&self, member: usize, author: usize) -> Head {
        let id = self.id(author);
        let status = self.members[member].replica.status();
        status.authors.iter().find(|author| author.id == id).unwrap().head
    }

    /// The last segment that a member has of an author.
    pub fn last_segment(&self, member: usize, author: usize) -> Option<Bytes> {
        let head = self.head(member, author);
        self.segment(member, author, head.position)
    }

    fn segment(&self, member: usize, author: usize, position: u64) -> Option<Bytes> {
        let mut from = (0, 0);
        while let Some((at, bytes)) = self.members[member].tables.next_segment(from).unwrap() {
            let header = Segment::decode(bytes.clone()).unwrap().signed().header;
            if header.author == self.id(author) && header.position == position {
                return Some(bytes);
            }
            from = (at.0, at.1 + 1);
        }
        None
    }

    pub fn header_hash(&self, member: usize, author: usize, position: u64) -> Hash {
        Segment::decode(self.segment(member, author, position).unwrap()).unwrap().signed().hash()
    }

    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
