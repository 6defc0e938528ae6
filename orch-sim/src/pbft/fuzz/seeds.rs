use std::{collections::BTreeMap, sync::Arc, time::Duration};

use orch_consensus::pbft::{Epoch, Fetch, Message, Supply};

use super::step::spell;
use crate::pbft::lab::{Lab, kind};

/// Larger messages teach a fuzzer nothing more.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Valid inputs for fuzzers to begin with: the target, a name, the bytes.
#[must_use]
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let (messages, logs) = of_a_group();
    let messages = messages.into_iter().map(|(name, bytes)| ("pbft_message", name, bytes));
    let logs = logs.into_iter().map(|(name, bytes)| ("pbft_wal", name, bytes));
    let steps = STEPS.iter().map(|(name, text)| ("pbft_step", (*name).to_owned(), spell(text)));
    messages.chain(logs).chain(steps).collect()
}

/// Messages and logs of a group in which nearly everything happens once: the first message of each kind and
/// the largest, and a log, as a file and as the contents of its frames.
fn of_a_group() -> (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>) {
    let mut lab = Lab::new(4, &[4], None);
    let (mut messages, mut logs) = (BTreeMap::new(), BTreeMap::new());
    let mut listen = |lab: &mut Lab, rounds: usize| {
        for _ in 0..rounds {
            while lab.on_its_way().len() > 0 {
                lab.on_its_way().take(1).for_each(|(_, _, message)| keep(&mut messages, message));
                lab.deliver_one(0);
            }
            lab.pass(Duration::from_millis(50));
        }
    };
    let mut write_down = |lab: &Lab, when: &str| {
        logs.insert(when.to_owned(), lab.log(1).to_vec());
        logs.insert(format!("{when}-contents"), contents(lab.log(1)));
    };
    listen(&mut lab, 2);
    lab.propose(1, 1);
    lab.read(2);
    listen(&mut lab, 2);
    write_down(&lab, "agreed");
    // The primary alone has what it prepared, and another view begins.
    lab.propose(0, 2);
    (0..4).for_each(|to| lab.lose(0, to, Some("commit")));
    lab.propose(2, 3);
    lab.partition(vec![1, 0, 0, 0, 0]);
    listen(&mut lab, 60);
    write_down(&lab, "other-view");
    for value in 10..24 {
        lab.propose(1, value);
        listen(&mut lab, 2);
    }
    lab.heal();
    listen(&mut lab, 40);
    lab.add(1, 4);
    lab.add(2, 4);
    listen(&mut lab, 60);
    lab.propose(4, 30);
    listen(&mut lab, 20);
    // As a client does that knows the first members only.
    lab.say(4, 1, Arc::new(Message::Fetch(Fetch::Members(Epoch(0)))));
    listen(&mut lab, 2);
    write_down(&lab, "other-members");
    // Where all are equally large.
    messages.retain(|_, bytes| !bytes.is_empty());
    (messages, logs)
}

fn keep(messages: &mut BTreeMap<String, Vec<u8>>, message: &Arc<Message>) {
    let name = match &**message {
        Message::Fetch(Fetch::Members(_)) => "fetch-members",
        Message::Supply(Supply::Members(_)) => "supply-members",
        message => kind(message),
    };
    let bytes = message.to_wire();
    let first = messages.entry(name.to_owned()).or_insert_with(|| bytes.clone());
    let known = first.len();
    let largest = messages.entry(format!("{name}-largest")).or_default();
    if bytes.len() > largest.len().max(known) && bytes.len() <= MESSAGE_BYTES_MAX {
        *largest = bytes;
    }
}

/// The frames of a log without its magic and their checksums, as the target takes them: each under its
/// length.
fn contents(log: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), log.get(8..).unwrap_or_default());
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let length = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let Some((content, next)) = after.split_at_checked(length) else { break };
        out.extend_from_slice(&head[..2]);
        out.extend_from_slice(content);
        rest = next;
    }
    out
}

/// Histories of a group: first the Byzantine member, then the events. In a distorted message, a batch's time
/// is at byte 2 of a PRE-PREPARE; view, sequence number and digest are at 11, 19 and 27 of a vote.
const STEPS: &[(&str, &str)] = &[
    ("agree", "3 DELIVER PROPOSE 0 DELIVER PROPOSE 1 READ 2 DELIVER"),
    (
        "order",
        "3 PROPOSE 0 DELIVER_ONE 3 DELIVER_ONE 1 REPEAT_ONE 0 LOSE_ONE 2 DELIVER_TO 2 DELIVER_TO 1 DELIVER_TO 0
         PASS 10 DELIVER",
    ),
    (
        "silent-primary",
        "0 PROPOSE 1 LOSE_LINK 5 DELIVER CUT 1 PROPOSE 2 SETTLE 40 SETTLE 40 PROPOSE 3 SETTLE 20 CUT 0",
    ),
    (
        "left-behind",
        "3 CUT 4
         PROPOSE 0 DELIVER PROPOSE 1 DELIVER PROPOSE 0 DELIVER PROPOSE 1 DELIVER PROPOSE 0 DELIVER
         PROPOSE 0 DELIVER PROPOSE 1 DELIVER PROPOSE 0 DELIVER PROPOSE 1 DELIVER PROPOSE 0 DELIVER
         CUT 0 SETTLE 40",
    ),
    ("crashes", "3 CRASH 5 PROPOSE 0 DELIVER CRASH 11 PROPOSE 2 DELIVER CRASH 17 PROPOSE 1 SETTLE 60"),
    // Half of the group gets another batch than the other half.
    ("two-batches", "0 PROPOSE 0 DELIVER_ONE 0 DISTORT 12 0 0 1 1 2 0 1 DELIVER_TO 2 DELIVER SETTLE 40 SETTLE 40"),
    // Another digest, another sequence number, another view.
    (
        "two-votes",
        "2 PROPOSE 0 DELIVER_TO 2 DELIVER_TO 0
         DISTORT 31 0 0 1 2 27 0 9
         DISTORT 31 0 1 1 1 19 0 1
         DISTORT 31 0 2 1 1 11 0 1
         SETTLE 40",
    ),
    (
        "replayed",
        "1 PROPOSE 0 DELIVER PROPOSE 0 DELIVER DISTORT 31 3 9 0 DISTORT 31 3 20 0 DELIVER
         CUT 1 PROPOSE 2 SETTLE 40 SETTLE 40 DISTORT 31 0 4 0 DISTORT 31 0 8 0 DELIVER",
    ),
    ("made-up", "1 MAKE_UP 31 10 0 1 11 5 0 0 0 0 0 0 0 DELIVER PROPOSE 0 DELIVER"),
    ("joins", "3 ADD 0 DELIVER ADD 1 DELIVER SETTLE 60 PROPOSE 4 DELIVER PROPOSE 0 SETTLE 20"),
];
