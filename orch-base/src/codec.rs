//! Bytes on the wire and on disk: little-endian numbers, lengths before contents. A length is checked against
//! the bytes that are there before anything is allocated for it.

use bytes::{Buf as _, Bytes};

/// Bytes that cannot be read, with the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub &'static str);

const SHORT: Malformed = Malformed("it ends too early");

/// Bytes that are being read from the front. What is taken out shares their memory.
///
/// Every method fails with [`Malformed`] when fewer bytes are left than it needs.
#[derive(Clone, Debug)]
pub struct Input(pub Bytes);

#[expect(clippy::missing_errors_doc, reason = "the type says it for all of them")]
impl Input {
    /// The next `length` bytes.
    pub fn take(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.0.len() {
            return Err(SHORT);
        }
        Ok(self.0.split_to(length))
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let array = *self.0.first_chunk::<N>().ok_or(SHORT)?;
        self.0.advance(N);
        Ok(array)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// One byte, 0 or 1.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }

    /// Bytes behind a length of four bytes.
    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// UTF-8 behind a length of four bytes.
    pub fn text(&mut self) -> Result<String, Malformed> {
        utf8(&self.bytes()?)
    }

    /// UTF-8 of at most `max` bytes behind a length of two.
    pub fn short_text(&mut self, max: usize) -> Result<String, Malformed> {
        let length = usize::from(self.u16()?);
        if length > max {
            return Err(Malformed("a text is too long"));
        }
        utf8(&self.take(length)?)
    }

    /// At most `max` items of at least `least` bytes each, behind their number in four bytes.
    pub fn list<T>(
        &mut self,
        least: usize,
        max: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.u32()? as usize;
        if count > max || count.saturating_mul(least.max(1)) > self.0.len() {
            return Err(Malformed("a list is longer than what holds it"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// Checks that nothing is left.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("something follows its end")) }
    }
}

fn utf8(bytes: &[u8]) -> Result<String, Malformed> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed("a text is not UTF-8"))
}

/// The length of something, in the form that [`Input::bytes`] and [`Input::list`] read.
///
/// # Panics
/// At 4 GiB: callers bound what they encode far below that.
#[must_use]
pub fn length(length: usize) -> u32 {
    u32::try_from(length).expect("what is encoded is bounded far below 4 GiB")
}

/// Appends bytes for [`Input::bytes`].
///
/// # Panics
/// As [`length()`].
pub fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend(length(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a text for [`Input::short_text`].
///
/// # Panics
/// At 64 KiB: callers bound such texts far below that.
pub fn put_short_text(text: &str, out: &mut Vec<u8>) {
    out.extend(u16::try_from(text.len()).expect("short texts are bounded far below 64 KiB").to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Appends a list for [`Input::list`].
///
/// # Panics
/// As [`length()`].
pub fn put_list<T>(
    items: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator>,
    out: &mut Vec<u8>,
    mut item: impl FnMut(T, &mut Vec<u8>),
) {
    let items = items.into_iter();
    out.extend(length(items.len()).to_le_bytes());
    items.for_each(|each| item(each, out));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(bytes: &[u8], text: &str, numbers: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(bytes, &mut out);
        put_short_text(text, &mut out);
        put_list(numbers, &mut out, |number, out| out.extend(number.to_le_bytes()));
        out
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            bytes: Vec<u8>,
            text in "\\PC{0,20}",
            numbers in prop::collection::vec(any::<u64>(), 0..20),
        ) {
            let mut input = Input(written(&bytes, &text, &numbers).into());
            prop_assert_eq!(&input.bytes().unwrap()[..], &bytes[..]);
            prop_assert_eq!(input.short_text(100).unwrap(), text);
            prop_assert_eq!(input.list(8, 20, Input::u64).unwrap(), numbers);
            prop_assert_eq!(input.end(), Ok(()));
        }

        #[test]
        fn what_is_cut_off_is_refused(cut in 0usize..40) {
            let whole = written(b"bytes", "text", &[1, 2]);
            prop_assume!(cut < whole.len());
            let mut input = Input(Bytes::from(whole).split_to(cut));
            let read = (|| {
                input.bytes()?;
                input.short_text(100)?;
                input.list(8, 20, Input::u64)
            })();
            prop_assert!(read.is_err());
        }
    }

    #[test]
    fn lengths_that_promise_too_much_are_refused_before_memory_is_taken() {
        let huge = Bytes::from_static(&[0xff; 6]);
        assert_eq!(Input(huge.clone()).bytes(), Err(SHORT));
        assert!(Input(huge.clone()).list(1, usize::MAX, Input::u8).is_err());
        assert!(Input(huge.clone()).list(0, usize::MAX, Input::u8).is_err());
        assert!(Input(huge).short_text(10).is_err());
        let three = Bytes::from_static(&[3, 0, 0, 0, 1, 1, 1]);
        assert!(Input(three.clone()).list(1, 2, Input::u8).is_err());
        assert_eq!(Input(three).list(1, 3, Input::u8).unwrap(), [1, 1, 1]);
    }

    #[test]
    fn flags_and_texts_have_one_form() {
        assert_eq!(Input(Bytes::from_static(&[2])).flag(), Err(Malformed("neither yes nor no")));
        assert!(Input(Bytes::from_static(&[1, 0, 0, 0, 0xff])).text().is_err());
        assert_eq!(Input(Bytes::from_static(&[0])).end(), Err(Malformed("something follows its end")));
    }
}
