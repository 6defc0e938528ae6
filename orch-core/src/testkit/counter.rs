use bytes::Bytes;

use crate::{
    consensus::{Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::Revision,
};

/// Machine that counts commands and returns empty outcomes: the minimal load of a consensus, for measurements
/// and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    commands: u64,
    settled: u64,
    time: Timestamp,
}

impl Counter {
    /// Number of commands so far.
    #[must_use]
    pub const fn commands(&self) -> u64 {
        self.commands
    }
}

impl StateMachine for Counter {
    fn decide(&mut self, context: &Context<'_>, _: &[u8]) -> Decision {
        self.commands += 1;
        self.time = self.time.max(context.time);
        Decision { outcome: Bytes::new(), changes: Vec::new().into() }
    }

    fn commit(&mut self, _: Revision) {
        self.settled = self.commands;
    }

    fn rollback(&mut self) {
        self.commands = self.settled;
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn snapshot(&self) -> Vec<u8> {
        [self.commands.to_le_bytes(), self.time.as_millis().to_le_bytes()].concat()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let bad = || MachineError::malformed("a counter", "it has not sixteen bytes");
        let (commands, rest) = snapshot.split_first_chunk().ok_or_else(bad)?;
        let time = rest.try_into().map_err(|_| bad())?;
        self.commands = u64::from_le_bytes(*commands);
        self.settled = self.commands;
        self.time = Timestamp::from_millis(u64::from_le_bytes(time));
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        use sha2::Digest as _;
        sha2::Sha256::digest(self.snapshot()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::Author;

    fn decide(counter: &mut Counter, at: u64) {
        let author = Author::local();
        let context = Context::new(Timestamp::from_millis(at), &author);
        counter.decide(&context, b"anything");
    }

    #[test]
    fn a_snapshot_holds_the_count_and_the_time() {
        let mut counter = Counter::default();
        for at in [5, 3] {
            decide(&mut counter, at);
            counter.commit(Revision(0));
        }
        decide(&mut counter, 4);
        counter.rollback();
        assert_eq!((counter.commands(), counter.time()), (2, Timestamp::from_millis(5)));
        let mut restored = Counter::default();
        restored.restore(&counter.snapshot()).unwrap();
        assert_eq!(restored, counter);
        assert_ne!(counter.digest(), Counter::default().digest());
        for bad in [&b""[..], b"12345678", b"12345678123456789"] {
            assert!(restored.restore(bad).is_err());
        }
        assert_eq!(restored, counter, "what cannot be read changes nothing");
    }
}
