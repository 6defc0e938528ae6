//! Records that several authors write without asking each other: for observations, where nobody has to agree.

mod clock;
mod codec;
mod key;
mod key_file;
mod merkle;
mod message;
mod owned;
mod record;
mod replica;
mod segment;
mod store;
mod tables;

pub use self::{
    clock::Stamp,
    codec::Malformed,
    key::AuthorKey,
    key_file::{KeyFileError, Protection},
    merkle::Hash,
    message::{AUTHORS_MAX, Difference, Evidence, Fingerprint, Item, Message, Range},
    owned::Owned,
    record::Record,
    replica::{
        AuthorStatus, Decision, DecisionError, Effect, Event, Moment, OpenError, ReadLevel, Refusal, Replica,
        ReplicaConfig, Status, Verdict,
    },
    segment::{
        Applied, Head, Header, SEGMENT_BYTES_MAX, SEGMENT_ENTRIES_MAX, Segment, SignedHeader, VALUE_BYTES_MAX,
    },
    store::{CrdtStore, CrdtStoreConfig},
    tables::{At, Lookup, MemoryTables, Tables},
};
