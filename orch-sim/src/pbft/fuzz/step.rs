use std::{sync::Arc, time::Duration};

use orch_consensus::pbft::{Message, Seq};

use super::{byzantine::Forger, input::Input};
use crate::{NodeId, pbft::lab::Lab};

/// Members at the beginning; one of them forger.
const MEMBERS: usize = 4;
/// A node that can be made a member.
const SPARE: NodeId = MEMBERS;
const NODES: usize = MEMBERS + 1;
const ACTIONS_MAX: usize = 200;
/// Capacity of the network. The oldest message is lost.
const ON_THE_WAY_MAX: usize = 1000;
/// Unit of time, and how much of it passes at once: more than most timeouts are long.
const UNIT: Duration = Duration::from_millis(40);
const UNITS_MAX: usize = 64;

/// Time for the group to agree again once nothing is lost any more.
const RECOVERY: Duration = Duration::from_secs(60);

macro_rules! actions {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        /// Next event. A byte stands for it, modulo their count; its arguments follow.
        mod action {
            $($(#[$doc])* pub(super) const $name: u8 = $number;)*
        }

        const ACTIONS: &[(&str, u8)] = &[$((stringify!($name), $number)),*];
    };
}

actions! {
    /// Everything arrives, and what follows from it.
    DELIVER = 0;
    /// One message arrives: its index among those on their way.
    DELIVER_ONE = 1;
    /// Messages on their way to a node arrive.
    DELIVER_TO = 2;
    /// A message is lost: its index.
    LOSE_ONE = 3;
    /// Messages on their way on a link are lost: to + 5 from.
    LOSE_LINK = 4;
    /// A message is sent once more: its index.
    REPEAT_ONE = 5;
    /// Time passes, so many units of it.
    PASS = 6;
    /// A node proposes.
    PROPOSE = 7;
    /// A node reads.
    READ = 8;
    /// A node crashes in its next step: node + 5 (effects that it has carried out).
    CRASH = 9;
    /// The network is cut: the side of each node is a bit.
    CUT = 10;
    /// The byzantine says something distorted: to whom, as bits; the rest is in `forger`.
    DISTORT = 11;
    /// The byzantine says anything: to whom, as bits; a length of two bytes; a message.
    MAKE_UP = 12;
    /// The operator of a node votes for the spare node to become a member.
    ADD = 13;
    /// Messages arrive and time passes in turn, for so many units.
    SETTLE = 14;
}

/// Four replicas, of which one forger, and a node that may join. The first byte says which one forger and
/// whether the group has to recover in the end; then come the actions.
///
/// # Panics
/// If a correct replica breaks an invariant, panics or does without end, or the group does not agree again
/// although nothing is lost any more and the Byzantine replica behaves.
pub fn step(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let Some(first) = input.byte() else { return };
    let byzantine = usize::from(first) % MEMBERS;
    let mut group = Group {
        lab: Lab::of(MEMBERS, (0..NODES).map(|node| (node, node != byzantine)), None),
        byzantine,
        forger: Forger::new(byzantine),
        proposals: 0,
    };
    for _ in 0..ACTIONS_MAX {
        if group.act(&mut input).is_none() {
            break;
        }
        group.check();
    }
    if (usize::from(first) / MEMBERS).is_multiple_of(2) {
        group.recover();
    }
}

/// The bytes for a text of numbers and names of actions.
pub(super) fn spell(text: &str) -> Vec<u8> {
    let byte = |word: &str| {
        let action = ACTIONS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
        action.or_else(|| word.parse().ok()).unwrap_or_else(|| panic!("{word} is no action and no byte"))
    };
    text.split_whitespace().map(byte).collect()
}

#[derive(Debug)]
struct Group {
    lab: Lab,
    byzantine: NodeId,
    forger: Forger,
    proposals: u64,
}

impl Group {
    /// Does what the next bytes say; none when there are none.
    fn act(&mut self, input: &mut Input<'_>) -> Option<()> {
        match u8::try_from(input.below(ACTIONS.len())?).unwrap_or(action::DELIVER) {
            action::DELIVER_ONE => {
                let index = self.index(input)?;
                self.deliver_one(index);
            }
            action::DELIVER_TO => {
                let node = input.below(NODES)?;
                // What follows from it waits for its turn.
                let mut left = self.lab.on_its_way().filter(|(_, to, _)| *to == node).count();
                while left > 0 {
                    let Some(index) = self.lab.on_its_way().position(|(_, to, _)| to == node) else { break };
                    self.deliver_one(index);
                    left -= 1;
                }
            }
            action::LOSE_ONE => {
                let index = self.index(input)?;
                self.lab.lose_one(index);
            }
            action::LOSE_LINK => {
                let link = input.below(NODES * NODES)?;
                self.lab.lose_link(link / NODES, link % NODES);
            }
            action::REPEAT_ONE => {
                let index = self.index(input)?;
                self.lab.repeat_one(index);
            }
            action::PASS => {
                for _ in 0..input.below(UNITS_MAX)? {
                    self.lab.pass(UNIT);
                }
            }
            action::PROPOSE => {
                self.proposals += 1;
                self.lab.propose(input.below(NODES)?, self.proposals);
            }
            action::READ => self.lab.read(input.below(NODES)?),
            action::CRASH => {
                let what = usize::from(input.byte()?);
                self.lab.crash_after(what % NODES, what / NODES);
            }
            action::CUT => {
                let sides = input.byte()?;
                self.lab.partition((0..NODES).map(|node| usize::from(sides >> node & 1)).collect());
            }
            action::DISTORT => {
                let to = input.byte()?;
                if let Some(message) = self.forger.distorted(input) {
                    self.say(to, message);
                }
            }
            action::MAKE_UP => {
                let to = input.byte()?;
                if let Some(message) = self.forger.made_up(input) {
                    self.say(to, message);
                }
            }
            action::ADD => self.lab.add(input.below(NODES)?, SPARE),
            action::SETTLE => {
                for _ in 0..input.below(UNITS_MAX)? {
                    self.deliver();
                    self.lab.pass(UNIT);
                }
            }
            _ => self.deliver(),
        }
        while self.lab.on_its_way().len() > ON_THE_WAY_MAX {
            self.lab.lose_one(0);
        }
        Some(())
    }

    fn index(&self, input: &mut Input<'_>) -> Option<usize> {
        input.below(self.lab.on_its_way().len().max(1))
    }

    fn deliver_one(&mut self, index: usize) {
        if let Some((from, to, message)) = self.lab.on_its_way().nth(index)
            && (from == self.byzantine || to == self.byzantine)
        {
            self.forger.observe(message);
        }
        self.lab.deliver_one(index);
    }

    fn deliver(&mut self) {
        for (from, to, message) in self.lab.on_its_way() {
            if from == self.byzantine || to == self.byzantine {
                self.forger.observe(message);
            }
        }
        self.lab.deliver();
    }

    fn say(&mut self, to: u8, message: Message) {
        let message = Arc::new(message);
        for node in (0..NODES).filter(|node| *node != self.byzantine && to >> node & 1 == 1) {
            self.lab.say(self.byzantine, node, message.clone());
        }
    }

    fn check(&self) {
        if let Some(problem) = self.lab.broken() {
            panic!("{problem}\n{}", self.lab.events.join("\n"));
        }
    }

    /// Nothing is lost any more, and the Byzantine replica behaves: what correct members propose is executed,
    /// and they become equal.
    fn recover(&mut self) {
        self.lab.heal();
        let before = self.lab.correct().map(|(_, replica)| replica.executed()).max();
        for node in (0..MEMBERS).filter(|node| *node != self.byzantine) {
            self.lab.propose(node, 1000 + node as u64);
        }
        let end = self.lab.now() + RECOVERY;
        while self.lab.now() < end {
            self.lab.deliver();
            self.check();
            if self.agrees_after(before) {
                return;
            }
            self.lab.pass(Duration::from_millis(100));
        }
        panic!("the group does not agree again within {RECOVERY:?}\n{}", self.lab.events.join("\n"));
    }

    /// True if all correct members executed the same, and more than this.
    fn agrees_after(&self, before: Option<Seq>) -> bool {
        let members = self.lab.correct().filter(|(at, replica)| *at != SPARE || replica.is_member());
        let ends: Vec<_> = members.map(|(_, replica)| (replica.executed(), replica.chain())).collect();
        ends.iter().all(|end| *end == ends[0]) && ends.first().map(|end| end.0) > before
    }
}
