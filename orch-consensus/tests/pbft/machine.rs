//! A machine that writes down every command, and says how many it has.

use orch_core::{
    consensus::{Context, Decision, MachineError, StateMachine},
    model::Timestamp,
    store::Revision,
};
use tokio::sync::watch;

/// All commands in order, for observers.
#[derive(Clone, Debug)]
pub(crate) struct Journal {
    lines: watch::Sender<Vec<String>>,
    time: Timestamp,
}

impl Default for Journal {
    fn default() -> Self {
        Self { lines: watch::Sender::new(Vec::new()), time: Timestamp::ZERO }
    }
}

impl Journal {
    pub(crate) fn lines(&self) -> watch::Receiver<Vec<String>> {
        self.lines.subscribe()
    }

    pub(crate) fn now(&self) -> Vec<String> {
        self.lines.borrow().clone()
    }
}

impl StateMachine for Journal {
    fn decide(&mut self, context: &Context<'_>, command: &[u8]) -> Decision {
        self.time = self.time.max(context.time);
        let line = String::from_utf8_lossy(command).into_owned();
        self.lines.send_modify(|lines| lines.push(line));
        let outcome = self.lines.borrow().len().to_string();
        Decision { outcome: outcome.into(), changes: Vec::new().into() }
    }

    fn commit(&mut self, _: Revision) {}

    fn rollback(&mut self) {
        unreachable!("what is ordered is not taken back");
    }

    fn time(&self) -> Timestamp {
        self.time
    }

    fn snapshot(&self) -> Vec<u8> {
        self.lines.borrow().join("\n").into_bytes()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), MachineError> {
        let text = String::from_utf8_lossy(snapshot);
        self.lines.send_replace(text.lines().map(ToOwned::to_owned).collect());
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        blake3::hash(&self.snapshot()).into()
    }
}
