//! Deduplication of clients' commands: a ring with one record for each, so that a repeated command gets its
//! first outcome again. A command that is older than the whole ring is not recognised any more.

use std::{collections::HashMap, sync::Arc};

use super::CommandRecord;
use crate::model::CommandId;

/// Ring of command records. `places` is an index that is looked up only, never iterated.
#[derive(Debug, Default)]
pub(super) struct Commands {
    ring: Vec<Option<Arc<CommandRecord>>>,
    places: HashMap<CommandId, u32>,
}

impl Commands {
    pub(super) fn get(&self, id: CommandId) -> Option<&CommandRecord> {
        self.ring.get(*self.places.get(&id)? as usize)?.as_deref()
    }

    pub(super) fn set(
        &mut self,
        slot: u32,
        record: Option<Arc<CommandRecord>>,
    ) -> Option<Arc<CommandRecord>> {
        let at = slot as usize;
        if at >= self.ring.len() {
            self.ring.resize(at + 1, None);
        }
        if let Some(record) = &record {
            self.places.insert(record.id, slot);
        }
        let before = std::mem::replace(&mut self.ring[at], record);
        // The changes of a batch may come in another order: the command may have another slot already.
        if let Some(before) = &before
            && self.ring[at].as_ref().is_none_or(|now| now.id != before.id)
            && self.places.get(&before.id) == Some(&slot)
        {
            self.places.remove(&before.id);
        }
        before
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<CommandRecord>)> {
        (0u32..).zip(&self.ring).filter_map(|(slot, record)| Some((slot, record.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Outcome;

    #[test]
    fn a_command_that_moves_is_known_in_whatever_order_its_places_change() {
        let record =
            |id: CommandId| Some(Arc::new(CommandRecord { id, outcome: Ok(Outcome::Done), subject: 0 }));
        let (moves, comes) = (CommandId::from_bytes([1; 16]), CommandId::from_bytes([2; 16]));
        let mut commands = Commands::default();
        commands.set(1, record(moves));
        commands.set(0, record(moves));
        commands.set(1, record(comes));
        assert!(commands.get(moves).is_some() && commands.get(comes).is_some());
        commands.set(0, None);
        assert!(commands.get(moves).is_none());
    }
}
