//! Commands of a replicated store and their outcomes as bytes: a line of JSON that says what there is, then
//! all values one after another.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::store::{CommitId, Guard, Incarnation, Key, Position, Revision, Txn, Write};

/// Format 1 has no `id`, no `settle`, and revisions in place of positions.
const VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Header {
    v: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<CommitId>,
    /// Revision from which on the commit `id` is looked for; nothing is committed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    settle: Option<Revision>,
    #[serde(default)]
    guards: Vec<GuardForm>,
    /// Keys with the length of their value, or nothing for a delete.
    #[serde(default)]
    writes: Vec<(String, Option<usize>)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GuardForm {
    Absent(String),
    /// Of format 1.
    Version(String, Revision),
    Position(String, Position),
}

/// Command of the store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Commit(Txn),
    /// Finds the commit, or sees to it that it never happens.
    Settle {
        id: CommitId,
        since: Revision,
    },
}

/// Outcome of a command.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Committed(Position),
    Conflict(String),
    /// The transaction was settled as not applied before.
    Refused(CommitId),
    Found(Position),
    NotFound,
    /// Only what came after this position is known.
    Compacted(Position),
}

pub(super) fn encode(command: &Command) -> Bytes {
    let txn = match command {
        Command::Commit(txn) => txn,
        Command::Settle { id, since } => {
            let (guards, writes) = (Vec::new(), Vec::new());
            let header = Header { v: VERSION, id: Some(*id), settle: Some(*since), guards, writes };
            return line_of(&header).freeze();
        }
    };
    let guard = |guard: &Guard| match guard {
        Guard::Absent(key) => GuardForm::Absent(key.to_string()),
        Guard::Version(key, version) => GuardForm::Position(key.to_string(), *version),
    };
    let write = |write: &Write| (write.key.to_string(), write.value.as_ref().map(Bytes::len));
    let header = Header {
        v: VERSION,
        id: txn.id,
        settle: None,
        guards: txn.guards.iter().map(guard).collect(),
        writes: txn.writes.iter().map(write).collect(),
    };
    let mut command = line_of(&header);
    txn.writes
        .iter()
        .filter_map(|write| write.value.as_ref())
        .for_each(|value| command.extend_from_slice(value));
    command.freeze()
}

fn line_of(header: &Header) -> BytesMut {
    let mut line = BytesMut::from(&*serde_json::to_vec(header).expect("plain data has a JSON form"));
    line.extend_from_slice(b"\n");
    line
}

/// `None` for bytes that [`encode`] did not make.
pub(super) fn decode(command: &[u8]) -> Option<Command> {
    let end = command.iter().position(|byte| *byte == b'\n')?;
    let header: Header = serde_json::from_slice(&command[..end]).ok()?;
    if !(1..=VERSION).contains(&header.v) {
        return None;
    }
    let mut values = &command[end + 1..];
    if let Some(since) = header.settle {
        return values.is_empty().then_some(Command::Settle { id: header.id?, since });
    }
    let mut txn = Txn { id: header.id, ..Txn::default() };
    for guard in header.guards {
        txn.guards.push(match guard {
            GuardForm::Absent(key) => Guard::Absent(Key::new(key).ok()?),
            GuardForm::Version(key, revision) => {
                Guard::Version(Key::new(key).ok()?, Position::new(revision, Incarnation::default()))
            }
            GuardForm::Position(key, version) => Guard::Version(Key::new(key).ok()?, version),
        });
    }
    for (key, length) in header.writes {
        let value = match length {
            None => None,
            Some(length) => {
                let (value, rest) = values.split_at_checked(length)?;
                values = rest;
                Some(Bytes::copy_from_slice(value))
            }
        };
        txn.writes.push(Write { key: Key::new(key).ok()?, value });
    }
    values.is_empty().then_some(Command::Commit(txn))
}

pub(super) fn encode_outcome(outcome: &Outcome) -> Bytes {
    serde_json::to_vec(outcome).expect("plain data has a JSON form").into()
}

pub(super) fn decode_outcome(outcome: &[u8]) -> Option<Outcome> {
    serde_json::from_slice(outcome).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::new(text).expect("a valid key")
    }

    #[test]
    fn a_command_survives_its_bytes_and_damage_is_noticed() {
        let version = Position::of(Revision(7), CommitId(u64::MAX));
        let txn =
            Txn::of(vec![Write::put(key("a"), "x\ny"), Write::delete(key("b")), Write::put(key("c"), "")])
                .guarded(Guard::Absent(key("a")))
                .guarded(Guard::Version(key("b"), version))
                .named(CommitId(5));
        let commit = Command::Commit(txn);
        let bytes = encode(&commit);
        assert_eq!(decode(&bytes), Some(commit));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&[&bytes[..], b"z"].concat()), None);
        assert_eq!(decode(b"no line"), None);
        let settle = Command::Settle { id: CommitId(5), since: Revision(3) };
        let bytes = encode(&settle);
        assert_eq!(decode(&bytes), Some(settle));
        assert_eq!(decode(&[&bytes[..], b"z"].concat()), None);
    }

    #[test]
    fn commands_of_format_1_are_read() {
        let old = b"{\"v\":1,\"guards\":[{\"absent\":\"a\"},{\"version\":[\"b\",7]}],\"writes\":[[\"a\",1],[\"c\",null]]}\nx";
        let version = Position::new(Revision(7), Incarnation(0));
        let txn = Txn::of(vec![Write::put(key("a"), "x"), Write::delete(key("c"))])
            .guarded(Guard::Absent(key("a")))
            .guarded(Guard::Version(key("b"), version));
        assert_eq!(decode(old), Some(Command::Commit(txn)));
        assert_eq!(decode(b"{\"v\":3}\n"), None);
    }
}
