//! Form of a record in a segment: a header with a checksum, then the bytes of the chunk.

use std::num::NonZeroU32;

use crate::{
    model::{AttemptId, TaskId, Timestamp},
    output::{chunks::CHUNK_BYTES_MAX, index::Fresh},
    runtime::OutputStream,
};

/// Bytes of a header.
pub(super) const HEADER: usize = 72;

/// The latest time that fits, in the year 10889.
const TIME_MAX: Timestamp = Timestamp::from_millis((1 << 48) - 1);

/// Header of a record. Numbers are little-endian, in this order; two checksums follow, of the data and of the
/// header before it. The time, of 48 bits, is where the first version had zeros: its high part behind the
/// stream, its low part behind the length. Zero is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) attempt: AttemptId,
    pub(super) stream: OutputStream,
    /// Of the data.
    pub(super) len: u32,
    pub(super) number: u64,
    pub(super) age: u64,
    pub(super) offset: u64,
    pub(super) limit: u64,
    pub(super) time: Option<Timestamp>,
    data_sum: u32,
}

impl Header {
    pub(super) fn of(fresh: &Fresh) -> Self {
        Self {
            attempt: fresh.attempt,
            stream: fresh.stream,
            len: u32::try_from(fresh.data.len()).expect("a chunk is small"),
            number: fresh.number,
            age: fresh.age,
            offset: fresh.offset,
            limit: fresh.limit,
            time: fresh.time.map(|time| time.min(TIME_MAX)).filter(|time| *time > Timestamp::ZERO),
            data_sum: checksum(&fresh.data),
        }
    }

    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(self.attempt.task.as_bytes());
        into.extend_from_slice(&self.attempt.attempt.get().to_le_bytes());
        let stream: u16 = match self.stream {
            OutputStream::Stdout => 1,
            OutputStream::Stderr => 2,
        };
        let time = self.time.unwrap_or_default().as_millis().to_le_bytes();
        into.extend_from_slice(&stream.to_le_bytes());
        into.extend_from_slice(&time[4..6]);
        into.extend_from_slice(&self.len.to_le_bytes());
        into.extend_from_slice(&time[..4]);
        for number in [self.number, self.age, self.offset, self.limit] {
            into.extend_from_slice(&number.to_le_bytes());
        }
        into.extend_from_slice(&self.data_sum.to_le_bytes());
        let sum = checksum(&into[start..]);
        into.extend_from_slice(&sum.to_le_bytes());
    }

    /// `None` when these are not the bytes of a complete header.
    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let (said, sum) = bytes.split_last_chunk::<4>()?;
        if checksum(said) != u32::from_le_bytes(*sum) {
            return None;
        }
        let u16_at = |at: usize| Some(u16::from_le_bytes(*said.get(at..)?.first_chunk()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(*said.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(*said.get(at..)?.first_chunk()?));
        let time = u64::from(u16_at(22)?) << 32 | u64::from(u32_at(28)?);
        let header = Self {
            attempt: AttemptId {
                task: TaskId::from_bytes(*said.first_chunk()?),
                attempt: NonZeroU32::new(u32_at(16)?)?,
            },
            stream: match u16_at(20)? {
                1 => OutputStream::Stdout,
                2 => OutputStream::Stderr,
                _ => return None,
            },
            len: u32_at(24)?,
            number: u64_at(32)?,
            age: u64_at(40)?,
            offset: u64_at(48)?,
            limit: u64_at(56)?,
            time: Some(Timestamp::from_millis(time)).filter(|time| *time > Timestamp::ZERO),
            data_sum: u32_at(64)?,
        };
        let fits = header.offset.checked_add(u64::from(header.len)).is_some();
        let sane = header.len as usize <= CHUNK_BYTES_MAX && header.number < u64::MAX && fits;
        sane.then_some(header)
    }

    /// True if these are the bytes of the chunk.
    pub(super) fn is_of(&self, data: &[u8]) -> bool {
        data.len() == self.len as usize && checksum(data) == self.data_sum
    }

    /// Bytes of the record.
    pub(super) fn size(&self) -> u64 {
        size_of_record(u64::from(self.len))
    }
}

/// Bytes of a chunk in a file.
pub(super) fn size_of_record(bytes: u64) -> u64 {
    HEADER as u64 + bytes
}

/// CRC-32 as in Ethernet and zip, eight bytes at a time.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let low = crc ^ u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        let low = low.to_le_bytes();
        let all = [low[0], low[1], low[2], low[3], chunk[4], chunk[5], chunk[6], chunk[7]];
        crc =
            all.iter().zip(TABLES.iter().rev()).fold(0, |crc, (byte, table)| crc ^ table[usize::from(*byte)]);
    }
    for byte in chunks.remainder() {
        crc = crc >> 8 ^ TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)];
    }
    !crc
}

/// For each byte, what it does to the sum so many bytes later.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    let mut tables = [[0; 256]; 8];
    let mut byte: u32 = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte as usize] = crc;
        byte += 1;
    }
    let mut later = 1;
    while later < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before: u32 = tables[later - 1][byte];
            tables[later][byte] = before >> 8 ^ tables[0][(before & 0xFF) as usize];
            byte += 1;
        }
        later += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_the_known_vectors() {
        assert_eq!(checksum(b""), 0);
        assert_eq!(checksum(b"123456789"), 0xCBF4_3926);
        assert_eq!(checksum(b"The quick brown fox jumps over the lazy dog"), 0x414F_A339);
    }

    #[test]
    fn a_header_says_what_it_was_made_of_and_nothing_when_a_bit_is_wrong() {
        let fresh = Fresh {
            attempt: AttemptId { task: TaskId::generate(), attempt: NonZeroU32::new(7).unwrap() },
            limit: 1 << 20,
            age: 3,
            number: 12,
            stream: OutputStream::Stderr,
            offset: 99,
            time: Some(Timestamp::from_millis(0x0123_4567_89AB)),
            data: Bytes::from_static(b"some bytes"),
        };
        let header = Header::of(&fresh);
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let bytes: [u8; HEADER] = bytes.try_into().unwrap();
        assert_eq!(Header::decode(&bytes), Some(header));
        assert!(header.is_of(b"some bytes") && !header.is_of(b"same bytes") && !header.is_of(b"some byte"));
        for bit in 0..HEADER * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&bytes), None, "bit {bit}");
        }
    }
}
