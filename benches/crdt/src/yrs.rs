use std::path::Path;

use ::yrs::{
    Any, Doc, Map as _, MapRef, ReadTxn as _, StateVector, Transact as _, Update,
    updates::{decoder::Decode as _, encoder::Encode as _},
};

use crate::{Document, Transaction, records::Log};

/// The crate `yrs`.
#[derive(Debug)]
pub struct Yrs {
    document: Doc,
    records: MapRef,
    log: Log,
}

impl Document for Yrs {
    const NAME: &'static str = "yrs";

    fn open(directory: &Path, author: u8) -> Self {
        let document = Doc::with_client_id(u64::from(author));
        let records = document.get_or_insert_map("records");
        Self { document, records, log: Log::open(directory) }
    }

    fn put(&mut self, records: Transaction) {
        let mut transaction = self.document.transact_mut();
        for (key, value) in records {
            self.records.insert(&mut transaction, key, Any::from(value));
        }
        let update = transaction.encode_update_v1();
        drop(transaction);
        self.log.append(&update);
    }

    fn sync(&mut self) {
        self.log.sync();
    }

    fn version(&mut self) -> Vec<u8> {
        self.document.transact().state_vector().encode_v1()
    }

    fn missing(&mut self, version: &[u8]) -> Vec<u8> {
        let version = StateVector::decode_v1(version).expect("a version");
        self.document.transact().encode_state_as_update_v1(&version)
    }

    fn take(&mut self, update: &[u8]) {
        let read = Update::decode_v1(update).expect("an update");
        self.document.transact_mut().apply_update(read).expect("an update");
        self.log.append(update);
    }

    fn count(&mut self) -> usize {
        let transaction = self.document.transact();
        usize::try_from(self.records.len(&transaction)).expect("it fits into memory")
    }

    fn compact(&mut self) {
        let all = self.document.transact().encode_state_as_update_v1(&StateVector::default());
        self.log.replace(&all);
    }
}
