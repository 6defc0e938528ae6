//! Bytes on the wire and on disk: little-endian numbers, lengths before contents. Nothing is allocated on the
//! word of a length that was not checked against the bytes that are there.

use bytes::Bytes;
use orch_core::{store::Key, transport::PeerId};

/// Bytes that cannot be decoded, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub(super) &'static str);

const SHORT: Malformed = Malformed("it ends too early");

/// Bytes that are being read. What is taken out shares their memory.
pub(super) struct Input(pub(super) Bytes);

impl Input {
    pub(super) fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.0.len() {
            return Err(SHORT);
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let array = *self.0.first_chunk::<N>().ok_or(SHORT)?;
        bytes::Buf::advance(&mut self.0, N);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    pub(super) fn peer(&mut self) -> Result<PeerId, Malformed> {
        Ok(PeerId::from_bytes(self.array()?))
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(super) fn text(&mut self, max: usize) -> Result<String, Malformed> {
        let length = usize::from(self.u16()?);
        if length > max {
            return Err(Malformed("a text is too long"));
        }
        let bytes = self.take(length)?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| Malformed("a text is not UTF-8"))
    }

    pub(super) fn key(&mut self) -> Result<Key, Malformed> {
        let length = usize::from(self.u16()?);
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Malformed("a key is not UTF-8"))?;
        Key::new(text).map_err(|_| Malformed("a key breaks the rules of keys"))
    }

    /// A sequence of at most `max` items that take at least `least` bytes each.
    pub(super) fn list<T>(
        &mut self,
        least: usize,
        max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count > max || count.saturating_mul(least) > self.0.len() {
            return Err(Malformed("a list is too long"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

/// The length of a part. Callers bound what they encode far below what a length can say.
pub(super) fn length(length: usize) -> u32 {
    u32::try_from(length).expect("parts are bounded far below 4 GiB")
}

pub(super) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(length(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend(u16::try_from(text.len()).expect("keys are at most 512 bytes").to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

pub(super) fn put_list<T>(
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(T, &mut Vec<u8>),
) {
    let items = items.into_iter();
    out.extend(length(items.len()).to_le_bytes());
    items.for_each(|each| item(each, out));
}
