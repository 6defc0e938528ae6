//! [`RaftConfig`]: who is in the group, where its log is, and every bound.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, time::Duration};

use orch_core::{
    consensus::{MemberId, MemberIdError},
    store::Durability,
    transport::{Channel, PeerId, TransportCapabilities},
};

use super::{sessions::WINDOW, types::node_of};

/// Bytes of a message besides the commands in it.
const MESSAGE_OVERHEAD: usize = 4096;

/// Location of the log and the snapshots, and so the failures that an answered proposal survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In memory. A member that ends has forgotten its votes, and must not come back under the same key while
    /// the group exists: it could vote twice.
    Memory,
    /// In files of this directory, synced at this interval. An answered proposal survives the end of
    /// processes; a power cut of most members at once may take the last moments. Votes are always synced.
    Written {
        /// The directory. It is made if it is missing, and belongs to this member alone.
        directory: PathBuf,
        /// Interval between two syncs of the log.
        interval: Duration,
    },
    /// In files of this directory, synced before a proposal is answered.
    Synced {
        /// The directory. It is made if it is missing, and belongs to this member alone.
        directory: PathBuf,
    },
}

impl Storage {
    pub(super) fn durability(&self) -> Durability {
        match self {
            Self::Memory => Durability::Memory,
            Self::Written { .. } => Durability::Group,
            Self::Synced { .. } => Durability::Sync,
        }
    }
}

/// Settings of a [`RaftConsensus`](super::RaftConsensus). The defaults suit a local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    /// The members that found the group, by name; each of them is given the same ones. A restart ignores
    /// them, for the members are in its log. Empty for a member that is added to a group later.
    pub members: BTreeMap<String, PeerId>,
    /// The channel of the transport that carries this group's messages; the first one by default.
    pub channel: Channel,
    /// Location of the log; in memory by default.
    pub storage: Storage,
    /// Interval of the leader's heartbeats. Also the time that one message of the log may take before it is
    /// sent again: longer than a round trip and a sync.
    pub heartbeat: Duration,
    /// The least time without a leader after which a member wants to be it. Several heartbeats.
    pub election_timeout_min: Duration,
    /// The longest such time; each member draws one between. A failed leader is replaced after about twice
    /// this time.
    pub election_timeout_max: Duration,
    /// Time that a proposal or a read waits for a leader and an outcome.
    pub proposal_timeout: Duration,
    /// Time of one attempt at a leader before the proposal is sent again. It is applied once all the same.
    pub attempt_timeout: Duration,
    /// Time for a new member to catch up before it becomes a voter.
    pub catch_up_timeout: Duration,
    /// Time for a chunk of a snapshot to be sent and written; the last chunk is installed in this time.
    pub snapshot_part_timeout: Duration,
    /// Proposals that may wait; one more is refused as busy.
    pub queue_max: NonZeroUsize,
    /// Proposals that share one entry of the log.
    pub bundle_commands_max: NonZeroUsize,
    /// The bytes of commands that share one entry of the log; a single command may be larger.
    pub bundle_bytes_max: NonZeroUsize,
    /// Entries that one member may have under way, at most 64. More hide the latency of the network, fewer
    /// make larger bundles.
    pub in_flight_max: NonZeroUsize,
    /// The largest command in bytes.
    pub max_command_bytes: usize,
    /// The bytes of entries that one message to a follower carries, if they are more than one.
    pub append_bytes_max: NonZeroUsize,
    /// Messages of other members that are worked on at a time; more are dropped, as a network would.
    pub serving_max: NonZeroUsize,
    /// A snapshot is taken when the log since the last one has as many bytes as that one, and at least this
    /// many.
    pub snapshot_log_bytes_min: u64,
    /// The bytes of a snapshot that one message carries.
    pub snapshot_part_bytes: NonZeroUsize,
    /// Entries that stay in the log after a snapshot, for members that are behind by less.
    pub log_keep_entries: u64,
    /// The size of the log's files, about. They are removed as a whole.
    pub segment_bytes: u64,
    /// The bytes of entries that are kept in memory besides the files.
    pub cache_bytes: usize,
}

impl RaftConfig {
    /// A member of a group with these founders, in memory until a directory is given.
    #[must_use]
    pub fn new(members: impl IntoIterator<Item = (String, PeerId)>) -> Self {
        const fn count(count: usize) -> NonZeroUsize {
            NonZeroUsize::new(count).expect("not zero")
        }
        Self {
            members: members.into_iter().collect(),
            channel: Channel(0),
            storage: Storage::Memory,
            heartbeat: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(400),
            election_timeout_max: Duration::from_millis(800),
            proposal_timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            catch_up_timeout: Duration::from_secs(60),
            snapshot_part_timeout: Duration::from_secs(5),
            queue_max: const { count(65_536) },
            bundle_commands_max: const { count(1024) },
            bundle_bytes_max: const { count(1 << 20) },
            in_flight_max: const { count(4) },
            max_command_bytes: 4 << 20,
            append_bytes_max: const { count(2 << 20) },
            serving_max: const { count(1024) },
            snapshot_log_bytes_min: 32 << 20,
            snapshot_part_bytes: const { count(1 << 20) },
            log_keep_entries: 1000,
            segment_bytes: 16 << 20,
            cache_bytes: 64 << 20,
        }
    }

    /// Keeps the log in this directory, synced before a proposal is answered.
    #[must_use]
    pub fn durable(self, directory: impl Into<PathBuf>) -> Self {
        Self { storage: Storage::Synced { directory: directory.into() }, ..self }
    }

    /// Checks what belongs together.
    ///
    /// # Errors
    /// [`RaftConfigError`] names what does not.
    pub fn validate(&self, us: PeerId, transport: &TransportCapabilities) -> Result<(), RaftConfigError> {
        if !self.members.is_empty() && !self.members.values().any(|peer| *peer == us) {
            return Err(RaftConfigError::NotAMember(us));
        }
        let mut names = BTreeMap::new();
        for (name, peer) in &self.members {
            MemberId::new(name.as_str()).map_err(|source| RaftConfigError::Name { peer: *peer, source })?;
            if let Some(other) = names.insert(node_of(*peer), name) {
                return Err(RaftConfigError::SamePeer { one: other.clone(), other: name.clone() });
            }
        }
        self.validate_times()?;
        if self.in_flight_max.get() as u64 > WINDOW {
            return Err(RaftConfigError::TooManyInFlight { max: WINDOW });
        }
        let max = transport.max_message_bytes.saturating_sub(MESSAGE_OVERHEAD);
        // A bundle that is nearly full may take one more command.
        let bundle = self
            .max_command_bytes
            .saturating_add(self.bundle_bytes_max.get())
            .saturating_add(self.bundle_commands_max.get().saturating_mul(4));
        for (what, size) in [
            ("max_command_bytes", self.max_command_bytes),
            ("bundle_bytes_max with max_command_bytes", bundle),
            ("append_bytes_max", self.append_bytes_max.get()),
            ("snapshot_part_bytes", self.snapshot_part_bytes.get()),
        ] {
            if size > max {
                return Err(RaftConfigError::LargerThanMessages { what, size, max });
            }
        }
        if self.segment_bytes < 4096 {
            return Err(RaftConfigError::SmallSegments);
        }
        Ok(())
    }

    fn validate_times(&self) -> Result<(), RaftConfigError> {
        // Openraft counts in milliseconds.
        let least = Duration::from_millis(1);
        for (what, time) in [
            ("heartbeat", self.heartbeat),
            ("proposal_timeout", self.proposal_timeout),
            ("attempt_timeout", self.attempt_timeout),
            ("catch_up_timeout", self.catch_up_timeout),
            ("snapshot_part_timeout", self.snapshot_part_timeout),
        ] {
            if time < least {
                return Err(RaftConfigError::TooShort(what));
            }
        }
        if self.election_timeout_min < 2 * self.heartbeat {
            return Err(RaftConfigError::ElectionsTooSoon {
                heartbeat: self.heartbeat,
                election: self.election_timeout_min,
            });
        }
        if self.election_timeout_max < self.election_timeout_min + least {
            return Err(RaftConfigError::ElectionRange);
        }
        match self.storage {
            Storage::Written { interval, .. } if interval < least => {
                Err(RaftConfigError::TooShort("interval"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn openraft(&self) -> openraft::Config {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        openraft::Config {
            cluster_name: "orch".into(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_timeout_min),
            election_timeout_max: millis(self.election_timeout_max),
            install_snapshot_timeout: millis(self.snapshot_part_timeout),
            max_payload_entries: 1024,
            // Snapshots are taken by bytes: see `Replica`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.log_keep_entries,
            ..openraft::Config::default()
        }
    }
}

/// Settings that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RaftConfigError {
    /// The founding members do not include this one.
    #[error("the founding members do not include this one, peer {0}; give none to join a group that exists")]
    NotAMember(PeerId),
    /// A name is empty or long.
    #[error("the member with peer {peer} cannot have its name")]
    Name {
        /// Its peer id.
        peer: PeerId,
        /// Reason.
        source: MemberIdError,
    },
    /// Two members have one key.
    #[error("members {one} and {other} have the same peer id")]
    SamePeer {
        /// A member.
        one: String,
        /// Another.
        other: String,
    },
    /// A time is zero, or nearly.
    #[error("{0} is shorter than a millisecond")]
    TooShort(&'static str),
    /// Elections would begin while the leader is alive.
    #[error(
        "election_timeout_min is {election:?}; with a heartbeat of {heartbeat:?} it must be at least twice as long"
    )]
    ElectionsTooSoon {
        /// The heartbeat.
        heartbeat: Duration,
        /// The election timeout.
        election: Duration,
    },
    /// There is nothing to draw from.
    #[error(
        "election_timeout_max must be longer than election_timeout_min, so that members do not all start at once"
    )]
    ElectionRange,
    /// More entries under way than outcomes are kept.
    #[error("in_flight_max is at most {max}")]
    TooManyInFlight {
        /// The most.
        max: u64,
    },
    /// The transport does not take such messages.
    #[error("{what} comes to {size} bytes, but the transport leaves room for {max} in a message")]
    LargerThanMessages {
        /// Name of the setting.
        what: &'static str,
        /// Its size.
        size: usize,
        /// The most.
        max: usize,
    },
    /// The log would have a file for each entry.
    #[error("segment_bytes must be at least 4096")]
    SmallSegments,
}
