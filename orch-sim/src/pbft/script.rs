//! Cases as text: commands, a line of dashes, and what has to come out.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use orch_consensus::pbft::{ReplicaId, SeededFault};

use super::lab::{KINDS, Lab};
use crate::NodeId;

/// A case: its name and its text.
pub type Case = (&'static str, &'static str);

macro_rules! cases {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("cases/", $name, ".txt")))),*]
    };
}

/// Claims of the papers and bugs of the past, one case each.
pub const CASES: &[Case] = cases![
    "one_replica",
    "three_phases",
    "out_of_order",
    "checkpoint",
    "window",
    "silent_primary",
    "prepared_survives",
    "gaps_become_null",
    "claims_of_laggards",
    "join_at_weak_quorum",
    "nobody_runs_ahead_alone",
    "ahead_alone_learns",
    "missed_new_view",
    "state_transfer",
    "restart_keeps_votes",
    "all_restart",
    "equivocation_is_proven",
    "reads",
    "reads_fall_back",
    "no_lock_across_views",
    "body_after_decision",
    "reads_after_restart",
    "decided_in_two_views",
    "members_join_and_leave",
    "idle_epoch_ends_without_its_primary",
    "reads_across_an_epoch",
    "restart_after_an_epoch",
    "settled_requests_are_forgotten",
    "proposals_outlive_the_log",
];

/// A case that came out otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The commands after which it did.
    pub commands: String,
    /// Recorded output.
    pub expected: String,
    /// Actual output.
    pub got: String,
}

/// Plays a case.
///
/// # Errors
/// The first block that came out otherwise.
///
/// # Panics
/// If the text is not a case.
pub fn play(text: &str, fault: Option<SeededFault>) -> Result<(), Box<Mismatch>> {
    let mut player = Player { lab: None, fault };
    for block in blocks(text) {
        let got = player.run(&block.commands);
        if got != block.expected {
            return Err(Box::new(Mismatch { commands: block.commands, expected: block.expected, got }));
        }
    }
    Ok(())
}

/// The text of a case with what comes out now.
#[must_use]
pub fn record(text: &str) -> String {
    let mut player = Player { lab: None, fault: None };
    let mut out = String::new();
    for line in text.lines().take_while(|line| line.starts_with('#')) {
        let _ = writeln!(out, "{line}");
    }
    for block in blocks(text) {
        let got = player.run(&block.commands);
        let _ = write!(out, "\n{}----\n{got}", block.commands);
    }
    out
}

struct Block {
    commands: String,
    expected: String,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut commands, mut expected, mut result) =
        (Vec::new(), String::new(), String::new(), false);
    for line in text.lines().filter(|line| !line.starts_with('#')).chain([""]) {
        match line {
            "----" => result = true,
            "" if result => {
                blocks.push(Block {
                    commands: std::mem::take(&mut commands),
                    expected: std::mem::take(&mut expected),
                });
                result = false;
            }
            "" => {}
            line => {
                let part = if result { &mut expected } else { &mut commands };
                let _ = writeln!(part, "{line}");
            }
        }
    }
    assert!(commands.is_empty(), "the last commands have no result: {commands}");
    blocks
}

struct Player {
    lab: Option<Lab>,
    fault: Option<SeededFault>,
}

impl Player {
    fn run(&mut self, commands: &str) -> String {
        let mut out = String::new();
        for line in commands.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            self.command(&words, &mut out);
            if let Some(lab) = &mut self.lab {
                for event in std::mem::take(&mut lab.events) {
                    let _ = writeln!(out, "{event}");
                }
                if let Some(problem) = lab.broken() {
                    let _ = writeln!(out, "BROKEN: {problem}");
                }
            }
        }
        if out.is_empty() { "nothing\n".into() } else { out }
    }

    fn command(&mut self, words: &[&str], out: &mut String) {
        if let ["group", replicas, others @ ..] = words {
            let others: Vec<NodeId> = others.iter().map(|other| number(other)).collect();
            let mut lab = Lab::new(number(replicas), &others, self.fault);
            // All say where they are when they start.
            lab.deliver();
            self.lab = Some(lab);
            return;
        }
        let Some(lab) = &mut self.lab else { panic!("a case begins with a group") };
        match words {
            ["propose", at, values @ ..] => {
                values.iter().for_each(|value| lab.propose(number(at), number(value) as u64));
            }
            ["add", at, node] => lab.add(number(at), number(node)),
            ["remove", at, id] => {
                let id = ReplicaId(u32::try_from(number(id)).unwrap_or(u32::MAX));
                lab.remove(number(at), id);
            }
            ["read", at] => lab.read(number(at)),
            ["deliver"] => tell(&lab.deliver(), out),
            ["pass", millis] => lab.pass(Duration::from_millis(number(millis) as u64)),
            ["settle", millis] => {
                let mut all = BTreeMap::new();
                for _ in 0..number(millis) / 50 {
                    lab.pass(Duration::from_millis(50));
                    for (kind, count) in lab.deliver() {
                        *all.entry(kind).or_insert(0) += count;
                    }
                }
                tell(&all, out);
            }
            ["lose", from, to, rest @ ..] => {
                let kind = rest.first().map(|kind| {
                    let known = KINDS.iter().find(|known| *known == kind);
                    *known.unwrap_or_else(|| panic!("{kind} is no kind of message"))
                });
                for from in which(from, lab.instances()) {
                    which(to, lab.instances()).into_iter().for_each(|to| lab.lose(from, to, kind));
                }
            }
            ["heal"] => lab.heal(),
            ["stop", at] => lab.stop(number(at)),
            ["start", at] => lab.start(number(at)),
            ["state"] => state(lab, out),
            _ => panic!("{words:?} is no command"),
        }
    }
}

fn number(word: &str) -> usize {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

fn which(word: &str, all: usize) -> Vec<NodeId> {
    if word == "*" { (0..all).collect() } else { word.split(',').map(number).collect() }
}

/// Delivered messages, without what repeats itself all the time.
fn tell(delivered: &BTreeMap<&'static str, usize>, out: &mut String) {
    let shown = delivered.iter().filter(|(kind, _)| **kind != "status");
    let parts: Vec<_> = shown.map(|(kind, count)| format!("{count} {kind}")).collect();
    if !parts.is_empty() {
        let _ = writeln!(out, "({})", parts.join(", "));
    }
}

fn state(lab: &Lab, out: &mut String) {
    for at in 0..lab.instances() {
        let Some(replica) = lab.replica(at) else {
            let _ = writeln!(out, "{at}: down");
            continue;
        };
        let (view, entered) = replica.view();
        let on_the_way = if entered { "" } else { " (on the way)" };
        let _ = writeln!(
            out,
            "{at}: {view}{on_the_way} stable {} executed {}",
            replica.stable(),
            replica.executed()
        );
    }
}
