//! The peers, each with one map at its root. All are in memory; what they save is what would go to a disk.

use std::borrow::Cow;

use automerge::{AutoCommit, ROOT, ReadDoc as _, transaction::Transactable as _};
use loro::{ExportMode, LoroDoc};
use yrs::{Doc, Map as _, ReadTxn as _, Transact as _, Update, updates::decoder::Decode as _};

use crate::{Failure, Pair, TOGETHER, key, value};

/// Two documents of loro.
pub struct Loro([LoroDoc; 2]);

impl Pair for Loro {
    fn new() -> Result<Self, Failure> {
        Ok(Self([LoroDoc::new(), LoroDoc::new()]))
    }

    fn put(&mut self, copy: usize, first: usize, count: usize, byte: u8) -> Result<(), Failure> {
        let doc = &self.0[copy];
        let map = doc.get_map("m");
        for at in first..first + count {
            map.insert(&key(at), value(byte))?;
            if at % TOGETHER == TOGETHER - 1 {
                doc.commit();
            }
        }
        doc.commit();
        Ok(())
    }

    fn merge(&mut self) -> Result<usize, Failure> {
        let [one, two] = &self.0;
        let mut bytes = 0;
        for (from, to) in [(one, two), (two, one)] {
            let updates = from.export(ExportMode::Updates { from: Cow::Owned(to.oplog_vv()) })?;
            bytes += updates.len();
            to.import(&updates)?;
        }
        Ok(bytes)
    }

    fn size(&mut self) -> Result<u64, Failure> {
        Ok(self.0[0].export(ExportMode::Snapshot)?.len() as u64)
    }

    fn keys(&self, copy: usize) -> Result<usize, Failure> {
        Ok(self.0[copy].get_map("m").len())
    }
}

/// Two documents of automerge, and what both had when they last met.
pub struct Automerge {
    docs: [AutoCommit; 2],
    common: Vec<automerge::ChangeHash>,
}

impl Pair for Automerge {
    fn new() -> Result<Self, Failure> {
        Ok(Self { docs: [AutoCommit::new(), AutoCommit::new()], common: Vec::new() })
    }

    fn put(&mut self, copy: usize, first: usize, count: usize, byte: u8) -> Result<(), Failure> {
        let doc = &mut self.docs[copy];
        for at in first..first + count {
            doc.put(ROOT, key(at), value(byte))?;
            if at % TOGETHER == TOGETHER - 1 {
                doc.commit();
            }
        }
        doc.commit();
        Ok(())
    }

    fn merge(&mut self) -> Result<usize, Failure> {
        let [one, two] = &mut self.docs;
        let to_two = one.save_after(&self.common);
        let to_one = two.save_after(&self.common);
        two.load_incremental(&to_two)?;
        one.load_incremental(&to_one)?;
        self.common = one.get_heads();
        Ok(to_one.len() + to_two.len())
    }

    fn size(&mut self) -> Result<u64, Failure> {
        Ok(self.docs[0].save().len() as u64)
    }

    fn keys(&self, copy: usize) -> Result<usize, Failure> {
        Ok(self.docs[copy].length(ROOT))
    }
}

/// Two documents of yrs.
pub struct Yrs([(Doc, yrs::MapRef); 2]);

impl Pair for Yrs {
    fn new() -> Result<Self, Failure> {
        let new = || {
            let doc = Doc::new();
            let map = doc.get_or_insert_map("m");
            (doc, map)
        };
        Ok(Self([new(), new()]))
    }

    fn put(&mut self, copy: usize, first: usize, count: usize, byte: u8) -> Result<(), Failure> {
        let (doc, map) = &self.0[copy];
        for begin in (first..first + count).step_by(TOGETHER) {
            let mut txn = doc.transact_mut();
            for at in begin..(begin + TOGETHER).min(first + count) {
                map.insert(&mut txn, key(at), yrs::Any::Buffer(value(byte).into()));
            }
        }
        Ok(())
    }

    fn merge(&mut self) -> Result<usize, Failure> {
        let mut bytes = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            let has = self.0[to].0.transact().state_vector();
            let update = self.0[from].0.transact().encode_state_as_update_v1(&has);
            bytes += update.len();
            self.0[to].0.transact_mut().apply_update(Update::decode_v1(&update)?)?;
        }
        Ok(bytes)
    }

    fn size(&mut self) -> Result<u64, Failure> {
        let nothing = yrs::StateVector::default();
        Ok(self.0[0].0.transact().encode_state_as_update_v1(&nothing).len() as u64)
    }

    fn keys(&self, copy: usize) -> Result<usize, Failure> {
        let (doc, map) = &self.0[copy];
        Ok(map.len(&doc.transact()) as usize)
    }
}
