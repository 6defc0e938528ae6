//! Values with one form in bytes, on the wire and on disk. The pieces are [`orch_base::codec`]'s; the traits
//! are this crate's own, so that it can give forms to tuples, lists and the types of openraft.

use bytes::Bytes;
pub(crate) use orch_base::codec::{Input, Malformed, length, put_bytes, put_list};

/// A value with one form in bytes.
pub(crate) trait Encode {
    fn encode(&self, out: &mut Vec<u8>);

    #[cfg(any(test, feature = "pbft"))]
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// A value that can be read from bytes.
pub(crate) trait Decode: Sized {
    fn decode(input: &mut Input) -> Result<Self, Malformed>;

    /// Reads one value and nothing after it.
    fn from_bytes(bytes: Bytes) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let value = Self::decode(&mut input)?;
        input.end()?;
        Ok(value)
    }
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
