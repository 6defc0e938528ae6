//! Bytes on the wire and on disk: little-endian numbers, lengths before contents. Nothing is allocated on the word of a
//! length that was not checked against the bytes that are there.

use bytes::Bytes;

/// What cannot be read, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
#[cfg_attr(not(feature = "pbft"), expect(unreachable_pub, reason = "only the API of PBFT shows it"))]
pub struct Malformed(pub(crate) &'static str);

/// Something that has a form in bytes.
pub(crate) trait Encode {
    fn encode(&self, out: &mut Vec<u8>);

    #[cfg(any(test, feature = "pbft"))]
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Something that can be read from bytes.
pub(crate) trait Decode: Sized {
    fn decode(input: &mut Input) -> Result<Self, Malformed>;

    /// Reads one of these and nothing after it.
    fn from_bytes(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let value = Self::decode(&mut input)?;
        input.end()?;
        Ok(value)
    }
}

/// Bytes that are being read.
pub(crate) struct Input(pub(crate) Bytes);

impl Input {
    pub(crate) fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.0.len() {
            return Err(Malformed("it ends too early"));
        }
        Ok(self.0.split_to(length))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?[..].try_into().map_err(|_| Malformed("it ends too early"))
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| Malformed("a text is not UTF-8"))
    }

    /// A sequence whose items take at least `least` bytes each.
    pub(crate) fn list<T>(
        &mut self,
        least: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count.saturating_mul(least.max(1)) > self.0.len() {
            return Err(Malformed("a list is longer than what holds it"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    pub(crate) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

/// The length of a part. Callers bound what they encode far below what a length can say.
pub(crate) fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(length(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn put_list<T>(
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(T, &mut Vec<u8>),
) {
    let items = items.into_iter();
    out.extend(length(items.len()).to_le_bytes());
    items.for_each(|each| item(each, out));
}

impl Encode for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }
}

impl Decode for u64 {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        input.u64()
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.encode(out);
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(input: &mut Input) -> Result<Self, Malformed> {
        if input.flag()? { T::decode(input).map(Some) } else { Ok(None) }
    }
}
