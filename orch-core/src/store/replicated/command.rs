//! Transactions and their outcomes as bytes: a line of JSON that says what there is, then all values one
//! after another.

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::store::{Guard, Key, Revision, Txn, Write};

#[derive(Serialize, Deserialize)]
struct Header {
    v: u8,
    guards: Vec<GuardForm>,
    /// Keys with the length of their value, or nothing for a delete.
    writes: Vec<(String, Option<usize>)>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GuardForm {
    Absent(String),
    Version(String, Revision),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OutcomeForm {
    Committed(Revision),
    Conflict(String),
}

/// Outcome of a transaction.
pub(super) enum Outcome {
    Committed(Revision),
    Conflict(Key),
}

pub(super) fn encode(txn: &Txn) -> Bytes {
    let guard = |guard: &Guard| match guard {
        Guard::Absent(key) => GuardForm::Absent(key.to_string()),
        Guard::Version(key, version) => GuardForm::Version(key.to_string(), *version),
    };
    let write = |write: &Write| (write.key.to_string(), write.value.as_ref().map(Bytes::len));
    let header = Header {
        v: 1,
        guards: txn.guards.iter().map(guard).collect(),
        writes: txn.writes.iter().map(write).collect(),
    };
    let mut command = BytesMut::from(&*serde_json::to_vec(&header).expect("plain data has a JSON form"));
    command.extend_from_slice(b"\n");
    txn.writes
        .iter()
        .filter_map(|write| write.value.as_ref())
        .for_each(|value| command.extend_from_slice(value));
    command.freeze()
}

/// `None` for bytes that [`encode`] did not make.
pub(super) fn decode(command: &[u8]) -> Option<Txn> {
    let end = command.iter().position(|byte| *byte == b'\n')?;
    let header: Header =
        serde_json::from_slice(&command[..end]).ok().filter(|header: &Header| header.v == 1)?;
    let mut values = &command[end + 1..];
    let mut txn = Txn::default();
    for guard in header.guards {
        txn.guards.push(match guard {
            GuardForm::Absent(key) => Guard::Absent(Key::new(key).ok()?),
            GuardForm::Version(key, version) => Guard::Version(Key::new(key).ok()?, version),
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
    values.is_empty().then_some(txn)
}

pub(super) fn encode_outcome(outcome: &Outcome) -> Bytes {
    let form = match outcome {
        Outcome::Committed(revision) => OutcomeForm::Committed(*revision),
        Outcome::Conflict(key) => OutcomeForm::Conflict(key.to_string()),
    };
    serde_json::to_vec(&form).expect("plain data has a JSON form").into()
}

pub(super) fn decode_outcome(outcome: &[u8]) -> Option<Outcome> {
    Some(match serde_json::from_slice(outcome).ok()? {
        OutcomeForm::Committed(revision) => Outcome::Committed(revision),
        OutcomeForm::Conflict(key) => Outcome::Conflict(Key::new(key).ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_survives_its_bytes_and_damage_is_noticed() {
        let key = |text: &str| Key::new(text).expect("a valid key");
        let txn =
            Txn::of(vec![Write::put(key("a"), "x\ny"), Write::delete(key("b")), Write::put(key("c"), "")])
                .guarded(Guard::Absent(key("a")))
                .guarded(Guard::Version(key("b"), Revision(7)));
        let bytes = encode(&txn);
        assert_eq!(decode(&bytes), Some(txn));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(decode(&[&bytes[..], b"z"].concat()), None);
        assert_eq!(decode(b"no line"), None);
    }
}
