//! Parts of the encoding that only the signed store has: keys and authors.

use orch_base::codec::{Input, Malformed};
use orch_core::{store::Key, transport::PeerId};

/// Reads keys and authors.
pub(super) trait InputExt {
    fn peer(&mut self) -> Result<PeerId, Malformed>;

    fn key(&mut self) -> Result<Key, Malformed>;
}

impl InputExt for Input {
    fn peer(&mut self) -> Result<PeerId, Malformed> {
        Ok(PeerId::from_bytes(self.array()?))
    }

    fn key(&mut self) -> Result<Key, Malformed> {
        let length = usize::from(self.u16()?);
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Malformed("a key is not UTF-8"))?;
        Key::new(text).map_err(|_| Malformed("a key breaks the rules of keys"))
    }
}
