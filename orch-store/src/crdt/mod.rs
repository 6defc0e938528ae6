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

pub use orch_base::codec::Malformed;
pub use orch_core::model::Moment;

pub use self::{
    applied::Applied,
    clock::Stamp,
    key::AuthorKey,
    key_file::{KeyFileError, Protection},
    merkle::Hash,
    message::{AUTHORS_MAX, Difference, Evidence, Fingerprint, Item, Message, Range},
    owned::Owned,
    record::Record,
    replica::{
        AuthorStatus, Decision, DecisionError, Effect, Event, OpenError, Prepared, ReadLevel, Refusal,
        Replica, ReplicaConfig, Status, TxnOutcome,
    },
    segment::{
        Head, Header, SEGMENT_BYTES_MAX, SEGMENT_ENTRIES_MAX, Segment, SegmentKey, SignedHeader,
        VALUE_BYTES_MAX,
    },
    store::{CrdtStore, CrdtStoreConfig},
    tables::{Lookup, MemoryTables, Tables},
};
