use std::path::Path;

use ::loro::{ExportMode, LoroDoc, LoroMap, LoroValue, VersionVector};

use crate::{Document, Transaction, records::Log};

/// The crate `loro`.
#[derive(Debug)]
pub struct Loro {
    document: LoroDoc,
    records: LoroMap,
    log: Log,
    written: VersionVector,
}

impl Document for Loro {
    const NAME: &'static str = "loro";

    fn open(directory: &Path, author: u8) -> Self {
        let document = LoroDoc::new();
        document.set_peer_id(u64::from(author)).expect("a new document");
        let records = document.get_map("records");
        Self { records, log: Log::open(directory), written: document.oplog_vv(), document }
    }

    fn put(&mut self, records: Transaction) {
        for (key, value) in records {
            self.records.insert(&key, LoroValue::from(value)).expect("a map takes it");
        }
        self.document.commit();
        let update = self.document.export(ExportMode::updates(&self.written)).expect("an update");
        self.log.append(&update);
        self.written = self.document.oplog_vv();
    }

    fn sync(&mut self) {
        self.log.sync();
    }

    fn version(&mut self) -> Vec<u8> {
        self.document.oplog_vv().encode()
    }

    fn missing(&mut self, version: &[u8]) -> Vec<u8> {
        let version = VersionVector::decode(version).expect("a version");
        self.document.export(ExportMode::updates(&version)).expect("an update")
    }

    fn take(&mut self, update: &[u8]) {
        self.document.import(update).expect("an update");
        self.log.append(update);
        self.written = self.document.oplog_vv();
    }

    fn count(&mut self) -> usize {
        self.records.len()
    }

    fn compact(&mut self) {
        // History before now is dropped, which needs that no other replica is behind.
        let now = self.document.oplog_frontiers();
        let shallow = self.document.export(ExportMode::shallow_snapshot(&now)).expect("a snapshot");
        self.log.replace(&shallow);
    }
}
