//! Records that several authors write without asking each other: for observations, where nobody has to agree.
//!
//! Every member of a group has a copy and writes to it alone. What it writes is signed and goes to the
//! others; for each key the last write wins, in all copies the same. Some members may lie: they cannot change
//! what others wrote, and who signs two things for one position is found out. `docs/protocols/crdt.md` of the
//! project says what is promised, and how.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use orch_core::{store::{StateStore, Txn, Write}, transport::{Channel, InProcessNetwork}};
//! use orch_store::crdt::{AuthorKey, CrdtStore, CrdtStoreConfig, Hash, Owned, ReplicaConfig};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let key = AuthorKey::open_file(Path::new("author.key"), Some(b"a passphrase"))?;
//! let me = key.author();
//! // The same in all members: the name of the group, and who writes from the beginning.
//! let replica = ReplicaConfig::new(Hash::of(b"observations of cluster 7"), vec![me]);
//! let transport = Arc::new(InProcessNetwork::default().join(me));
//! let store = CrdtStore::open_on(CrdtStoreConfig::new("state", replica), key, transport, Channel(7)).await?;
//! // Nobody else writes below this prefix.
//! store.commit(Txn::of(vec![Write::put(Owned::key(me, "usage/cpu")?, "17")])).await?;
//! # Ok(())
//! # }
//! ```
//!
//! It offers no compare-and-swap: guards look at this copy, and another member may write at the same time.
//! Decisions belong to consensus; those about members, their keys and what counts of a liar's log come back
//! here through [`CrdtStore::apply`].

#![cfg_attr(
    not(feature = "simulation"),
    allow(
        unreachable_pub,
        dead_code,
        reason = "the feature `simulation` makes the parts of a replica public"
    )
)]

mod applied;
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
    key::AuthorKey,
    key_file::{KeyFileError, Protection},
    merkle::Hash,
    message::Evidence,
    owned::Owned,
    replica::{AuthorStatus, Decision, DecisionError, ReadLevel, Refusal, ReplicaConfig, Status},
    segment::{Head, Header, SEGMENT_BYTES_MAX, SignedHeader},
    store::{CrdtStore, CrdtStoreConfig},
};

// The replica without a disk and a network, for those that simulate both.
#[cfg(feature = "simulation")]
pub use {
    self::{
        applied::Applied,
        message::{AUTHORS_MAX, Difference, Fingerprint, Item, Message, Range},
        record::Record,
        replica::{Effect, Event, OpenError, Prepared, Replica, TxnOutcome},
        segment::{SEGMENT_ENTRIES_MAX, Segment, SegmentKey, VALUE_BYTES_MAX},
        tables::{Lookup, MemoryTables, Tables},
    },
    orch_base::codec::Malformed,
    orch_core::model::Moment,
};
