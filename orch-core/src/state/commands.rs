//! The memory of clients' commands: a ring with one record for each, so that a command that comes again is answered
//! as before. A command that is older than the whole ring is not recognised any more.

use std::{collections::HashMap, sync::Arc};

use super::CommandRecord;
use crate::model::CommandId;

/// `places` is looked up only, never iterated.
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
        if let Some(before) = &before
            && self.ring[at].as_ref().is_none_or(|now| now.id != before.id)
        {
            self.places.remove(&before.id);
        }
        before
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<CommandRecord>)> {
        (0u32..).zip(&self.ring).filter_map(|(slot, record)| Some((slot, record.as_ref()?)))
    }
}
