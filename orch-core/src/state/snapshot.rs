//! State as bytes: its records in the format of a store, in chunks with a hash each.
//!
//! Format 2: one byte `2`; the number of chunks; per chunk its length and its SHA-256; the chunks. A chunk is
//! a sequence of records, each with the lengths of key and value before them. All numbers are big-endian and
//! 32 bits wide. Format 1 was one JSON document.

use std::sync::Arc;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Change, Clock, CommandRecord, TaskRecord};
use crate::{
    consensus::MachineError,
    model::NodeRecord,
    store::{Key, Write},
};

/// Size at which a chunk is closed, in bytes; its last record may exceed it.
const CHUNK_BYTES: usize = 256 << 10;
const FORMAT: u8 = 2;
const CHUNK_HEADER: usize = 4 + 32;
/// Name of it in errors.
const WHAT: &str = "snapshot";

pub(super) fn write(records: impl Iterator<Item = Change>) -> Vec<u8> {
    let (mut table, mut bodies, mut count) = (Vec::new(), Vec::new(), 0_u32);
    for_each_chunk(records, |chunk, hash| {
        count += 1;
        table.extend(length(chunk).to_be_bytes());
        table.extend(hash);
        bodies.extend(chunk);
    });
    [&[FORMAT][..], &count.to_be_bytes(), &table, &bodies].concat()
}

/// Digest that is the same for equal snapshots, without holding one.
pub(super) fn digest(records: impl Iterator<Item = Change>) -> [u8; 32] {
    let mut whole = Sha256::new();
    for_each_chunk(records, |_, hash| whole.update(hash));
    whole.finalize().into()
}

pub(super) fn read(snapshot: &[u8]) -> Result<Vec<Change>, MachineError> {
    let (format, mut rest) = snapshot.split_first().ok_or_else(|| bad("it is empty"))?;
    match *format {
        b'{' => return read_format_1(snapshot),
        FORMAT => {}
        found => return Err(MachineError::Format { what: WHAT.into(), found, known: FORMAT }),
    }
    let count = number(&mut rest)?;
    let table = take(&mut rest, count.checked_mul(CHUNK_HEADER).ok_or_else(cut_off)?)?;
    let mut writes = Vec::new();
    for (at, mut header) in table.chunks_exact(CHUNK_HEADER).enumerate() {
        let length = number(&mut header)?;
        let mut chunk = take(&mut rest, length)?;
        if *header != *Sha256::digest(chunk) {
            return Err(bad(format!("chunk {} of {count} is damaged", at + 1)));
        }
        while !chunk.is_empty() {
            let (key, value) = (number(&mut chunk)?, number(&mut chunk)?);
            let (key, value) = (take(&mut chunk, key)?, take(&mut chunk, value)?);
            let key = std::str::from_utf8(key).map_err(|_| bad("a key is no text"))?;
            let key = Key::new(key).map_err(unparsable)?;
            writes.push(Write::put(key, value.to_vec()));
        }
    }
    if !rest.is_empty() {
        return Err(bad("something comes after its end"));
    }
    Change::from_writes(&writes, |_| None)
}

fn for_each_chunk(records: impl Iterator<Item = Change>, mut found: impl FnMut(&[u8], &[u8])) {
    let mut chunk = Vec::new();
    let mut end = |chunk: &mut Vec<u8>| {
        found(chunk, &Sha256::digest(&chunk));
        chunk.clear();
    };
    for record in records {
        let Write { key, value: Some(value) } = record.to_write() else { continue };
        chunk.extend(length(key.as_str().as_bytes()).to_be_bytes());
        chunk.extend(length(&value).to_be_bytes());
        chunk.extend(key.as_str().as_bytes());
        chunk.extend(value);
        if chunk.len() >= CHUNK_BYTES {
            end(&mut chunk);
        }
    }
    if !chunk.is_empty() {
        end(&mut chunk);
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("a record is far smaller than 4 GiB")
}

fn number(from: &mut &[u8]) -> Result<usize, MachineError> {
    let (number, rest) = from.split_first_chunk::<4>().ok_or_else(cut_off)?;
    *from = rest;
    usize::try_from(u32::from_be_bytes(*number)).map_err(|_| cut_off())
}

fn take<'a>(from: &mut &'a [u8], length: usize) -> Result<&'a [u8], MachineError> {
    let (taken, rest) = from.split_at_checked(length).ok_or_else(cut_off)?;
    *from = rest;
    Ok(taken)
}

fn cut_off() -> MachineError {
    bad("it is cut off")
}

fn bad(problem: impl Into<String>) -> MachineError {
    MachineError::malformed(WHAT, problem)
}

fn unparsable(error: impl std::error::Error + Send + Sync + 'static) -> MachineError {
    MachineError::unparsable(WHAT, error)
}

#[derive(Deserialize)]
struct Format1 {
    v: u8,
    clock: Clock,
    nodes: Vec<Arc<NodeRecord>>,
    tasks: Vec<Arc<TaskRecord>>,
    commands: Vec<(u32, Arc<CommandRecord>)>,
}

fn read_format_1(snapshot: &[u8]) -> Result<Vec<Change>, MachineError> {
    let form: Format1 = serde_json::from_slice(snapshot).map_err(unparsable)?;
    if form.v != 1 {
        return Err(MachineError::Format { what: WHAT.into(), found: form.v, known: FORMAT });
    }
    let large = form.tasks.iter().filter(|task| task.spec.is_large());
    let mut changes: Vec<_> = large.map(|task| Change::PutSpec(task.spec.clone())).collect();
    changes.extend(form.nodes.into_iter().map(Change::PutNode));
    changes.extend(form.tasks.into_iter().map(Change::PutTask));
    changes.extend(form.commands.into_iter().map(|(slot, record)| Change::PutCommand(slot, record)));
    changes.push(Change::PutClock(form.clock));
    Ok(changes)
}
