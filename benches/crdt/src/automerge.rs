use std::path::Path;

use ::automerge::{
    ActorId, AutoCommit, ChangeHash, ROOT, ReadDoc as _, ScalarValue, transaction::Transactable as _,
};

use crate::{Document, Transaction, records::Log};

/// The crate `automerge`.
#[derive(Debug)]
pub struct Automerge {
    document: AutoCommit,
    log: Log,
}

const HASH_BYTES: usize = 32;

impl Document for Automerge {
    const NAME: &'static str = "automerge";

    fn open(directory: &Path, author: u8) -> Self {
        let document = AutoCommit::new().with_actor(ActorId::from([author; 16]));
        Self { document, log: Log::open(directory) }
    }

    fn put(&mut self, records: Transaction) {
        for (key, value) in records {
            self.document.put(ROOT, key, ScalarValue::Bytes(value)).expect("a map takes it");
        }
        self.document.commit();
        let update = self.document.save_incremental();
        self.log.append(&update);
    }

    fn sync(&mut self) {
        self.log.sync();
    }

    fn version(&mut self) -> Vec<u8> {
        self.document.get_heads().iter().flat_map(|head| head.0).collect()
    }

    fn missing(&mut self, version: &[u8]) -> Vec<u8> {
        let heads: Vec<_> = version
            .chunks_exact(HASH_BYTES)
            .map(|hash| ChangeHash(hash.try_into().expect("its length")))
            .collect();
        self.document.save_after(&heads)
    }

    fn take(&mut self, update: &[u8]) {
        self.document.load_incremental(update).expect("an update");
        self.log.append(update);
    }

    fn count(&mut self) -> usize {
        self.document.length(ROOT)
    }

    fn compact(&mut self) {
        let all = self.document.save();
        self.log.replace(&all);
    }
}
