/// The bytes of a fuzzer, which are taken one after the other. Where they end, the input ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> Option<usize> {
        Some(usize::from(self.byte()?) % bound)
    }

    pub(super) fn number(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    /// Bytes under their length, or those that are left of them.
    pub(super) fn part(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?.min(self.0.len());
        let (part, rest) = self.0.split_at(length);
        self.0 = rest;
        Some(part)
    }
}
