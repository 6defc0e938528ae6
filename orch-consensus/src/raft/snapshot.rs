//! Format of snapshots.

use bytes::Bytes;
use openraft::SnapshotMeta;

use super::{
    sessions::Sessions,
    types::{Members, NodeInfo},
};
use crate::codec::{Decode, Encode, Input, Malformed, put_bytes};

pub(super) type Meta = SnapshotMeta<u64, NodeInfo>;

/// First bytes of every snapshot; the digit is the version.
const MAGIC: &[u8; 8] = b"orchrsn1";
const HASH_BYTES: usize = 32;

/// A snapshot, taken apart.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) meta: Meta,
    pub(super) sessions: Sessions,
    pub(super) machine: Bytes,
}

/// Puts a snapshot together.
pub(super) fn seal(meta: &Meta, sessions: &Sessions, machine: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    meta.last_log_id.encode(&mut head);
    meta.last_membership.encode(&mut head);
    put_bytes(meta.snapshot_id.as_bytes(), &mut head);
    sessions.encode(&mut head);
    let mut out = Vec::with_capacity(MAGIC.len() + 4 + head.len() + machine.len() + HASH_BYTES);
    out.extend(MAGIC);
    put_bytes(&head, &mut out);
    out.extend_from_slice(machine);
    let hash = blake3::hash(&out);
    out.extend(hash.as_bytes());
    out
}

/// Takes a snapshot apart.
pub(super) fn open(bytes: &Bytes) -> Result<Opened, Malformed> {
    let Some(end) = bytes.len().checked_sub(HASH_BYTES).filter(|end| *end >= MAGIC.len()) else {
        return Err(Malformed("it ends too early"));
    };
    if !bytes.starts_with(MAGIC) {
        return Err(Malformed("it is no snapshot of this version"));
    }
    if blake3::hash(&bytes[..end]).as_bytes()[..] != bytes[end..] {
        return Err(Malformed("its checksum is wrong"));
    }
    let mut input = Input(bytes.slice(MAGIC.len()..end));
    let mut head = Input(input.bytes()?);
    let meta = Meta {
        last_log_id: Option::decode(&mut head)?,
        last_membership: Members::decode(&mut head)?,
        snapshot_id: head.text()?,
    };
    let sessions = Sessions::decode(&mut head)?;
    head.end()?;
    Ok(Opened { meta, sessions, machine: input.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> Meta {
        Meta { last_log_id: None, last_membership: Members::default(), snapshot_id: "1".into() }
    }

    #[test]
    fn a_snapshot_reads_as_it_was_written() {
        let bytes = Bytes::from(seal(&meta(), &Sessions::default(), b"state"));
        let opened = open(&bytes).expect("it is whole");
        assert_eq!((opened.meta, &opened.machine[..]), (meta(), &b"state"[..]));
    }

    #[test]
    fn damage_is_found() {
        let bytes = seal(&meta(), &Sessions::default(), b"state");
        for at in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            assert!(open(&bytes.into()).is_err(), "byte {at}");
        }
        for end in 0..bytes.len() {
            assert!(open(&Bytes::copy_from_slice(&bytes[..end])).is_err(), "cut at {end}");
        }
    }
}
