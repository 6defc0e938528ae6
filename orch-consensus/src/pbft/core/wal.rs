//! The log of a replica in bytes: frames of length, checksum and content. The first may hold a snapshot. A
//! frame that is cut short or damaged ends the log: nothing after it was promised to anyone, because what was
//! promised was synced.

use bytes::Bytes;

use super::record::{Image, Record};
use crate::codec::{Decode, Encode, Malformed};

/// First bytes of every log.
const MAGIC: &[u8; 8] = b"orchpbf1";
const FRAME_HEAD: usize = 8;

/// A log with nothing in it.
#[must_use]
pub fn empty() -> Vec<u8> {
    MAGIC.to_vec()
}

/// Bytes that [`Effect::Append`](super::io::Effect::Append) adds to the end of a log.
#[must_use]
pub fn frame(record: &Record) -> Vec<u8> {
    let mut content = vec![1];
    record.encode(&mut content);
    framed(&content)
}

/// Bytes that [`Effect::Replace`](super::io::Effect::Replace) replaces a log with.
#[must_use]
pub fn image(image: &Image) -> Vec<u8> {
    let mut out = empty();
    if let Some(snapshot) = &image.snapshot {
        let mut content = vec![0];
        content.extend(snapshot);
        out.extend(framed(&content));
    }
    for record in &image.records {
        out.extend(frame(record));
    }
    out
}

/// Reads a log, and says how many of its bytes are sound: what follows is to be cut off before anything is
/// added.
///
/// # Errors
/// [`Malformed`] when it is not the log of a replica, or of another version.
pub fn read(log: &Bytes) -> Result<(Image, usize), Malformed> {
    let mut image = Image { snapshot: None, records: Vec::new() };
    if log.len() < MAGIC.len() && MAGIC.starts_with(log) {
        return Ok((image, 0));
    }
    if !log.starts_with(MAGIC) {
        return Err(Malformed("this is not a log of this version"));
    }
    let mut sound = MAGIC.len();
    while let Some(content) = next(&log.slice(sound..)) {
        sound += FRAME_HEAD + content.len();
        match content.first() {
            Some(0) if image.snapshot.is_none() && image.records.is_empty() => {
                image.snapshot = Some(content.slice(1..));
            }
            Some(1) => image.records.push(Record::from_bytes(content.slice(1..))?),
            _ => return Err(Malformed("a frame of an unknown kind")),
        }
    }
    Ok((image, sound))
}

/// A frame of any content, as tests need it.
#[doc(hidden)]
#[must_use]
pub fn framed(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_HEAD + content.len());
    out.extend(crate::codec::length(content.len()).to_le_bytes());
    out.extend(checksum(content));
    out.extend(content);
    out
}

/// The content of the frame at the beginning, if it is whole.
fn next(rest: &Bytes) -> Option<Bytes> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (sum, after) = after.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let content = after.get(..length)?;
    (length > 0 && checksum(content) == *sum).then(|| rest.slice(FRAME_HEAD..FRAME_HEAD + length))
}

fn checksum(content: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(content);
    let [a, b, c, d, ..] = *hash.as_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pbft::{
        Batch, Claim, Digest, Epoch, Misbehaviour, Phase, PublicKey, ReplicaId, Seq, Signature, Statement,
        View,
    };

    fn misbehaviour() -> Misbehaviour {
        let claim = |digest| {
            let (epoch, view, seq, digest) = (Epoch(1), View(2), Seq(3), Digest([digest; 32]));
            let statement = Statement::Vote { phase: Phase::Commit, epoch, view, seq, digest };
            Claim { key: PublicKey([9; 32]), statement, signature: Signature([8; 64]) }
        };
        Misbehaviour { replica: ReplicaId(6), first: claim(1), second: claim(2) }
    }

    fn records() -> Vec<Record> {
        vec![
            Record::Body(Seq(3), Arc::new(Batch::null())),
            Record::Accepted(Epoch(1), View(2), Seq(3), Digest([4; 32])),
            Record::Left(Epoch(1), View(3)),
            Record::Evidence(Arc::new(misbehaviour())),
        ]
    }

    #[test]
    fn a_log_reads_as_it_was_written() {
        let image = Image { snapshot: Some(Bytes::from_static(b"state")), records: records() };
        let bytes = super::image(&image);
        let length = bytes.len();
        assert_eq!(read(&bytes.into()), Ok((image, length)));
    }

    #[test]
    fn cut_anywhere_it_holds_what_was_whole() {
        let mut bytes = empty();
        let mut ends = vec![bytes.len()];
        for record in records() {
            bytes.extend(frame(&record));
            ends.push(bytes.len());
        }
        for cut in 0..=bytes.len() {
            let (image, sound) =
                read(&Bytes::copy_from_slice(&bytes[..cut])).expect("a beginning of a log is a log");
            let whole = ends.iter().filter(|end| **end <= cut).count().saturating_sub(1);
            assert_eq!(image.records, records()[..whole]);
            assert_eq!(sound, if cut < ends[0] { 0 } else { ends[whole] });
        }
    }

    #[test]
    fn damage_ends_it() {
        let mut bytes = empty();
        records().iter().for_each(|record| bytes.extend(frame(record)));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let (image, _) = read(&bytes.into()).expect("still a log");
        let whole = records().len() - 1;
        assert_eq!(image.records, records()[..whole]);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(read(&Bytes::from_static(b"something else entirely")).is_err());
    }
}
