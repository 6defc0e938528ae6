//! Configuration of a member.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use orch_core::{
    consensus::{MemberId, MemberIdError},
    store::Durability,
    transport::{Channel, PeerId, Transport},
};

use crate::pbft::core::membership::{Membership, MembershipError};
use crate::pbft::core::{
    config::{Config, ConfigError},
    ids::{Digest, PublicKey},
};

/// Bytes of a command in a batch besides itself.
const COMMAND_OVERHEAD: usize = 512;
/// Bytes that messages besides batches may need: chunks of snapshots, view changes of large groups.
const MESSAGE_SLACK: usize = 4 << 20;

/// Configuration of a member of a group.
#[derive(Clone, Debug)]
pub struct PbftConfig {
    /// Name of the group. Members of groups with different names do not understand each other.
    pub group_name: String,
    /// The first members by name: the same set everywhere and for ever. Later members follow from it.
    pub members: BTreeMap<String, PeerId>,
    /// The protocol. The same `checkpoint_interval`, `window` and `snapshot_bytes_min` in all members.
    pub core: Config,
    /// Directory of the log. None only where nothing is durable.
    pub directory: Option<PathBuf>,
    /// Failures that an answered command survives here. That a group forgets nothing, and that its members
    /// keep to their votes before a crash, rests on it: with [`Durability::Memory`] a member that restarts
    /// counts as a faulty one.
    pub durability: Durability,
    /// Votes travel on this channel of the transport, and everything that may be large and can wait on the
    /// next one.
    pub channel: Channel,
    /// Commands and reads of this member that may wait for their answers; one more is refused as busy.
    pub queue_max: usize,
    /// The largest command in bytes.
    pub max_command_bytes: usize,
    /// Bytes that may wait to be written to the log. When there are more (the disk is full, or very slow),
    /// this member takes part in nothing until they are written.
    pub log_queue_bytes_max: usize,
    /// Time that [`shutdown`](orch_core::consensus::Consensus::shutdown) waits for accepted calls.
    pub shutdown_timeout: Duration,
}

impl PbftConfig {
    /// A member of this group, in memory until a directory is given.
    #[must_use]
    pub fn new(group_name: impl Into<String>, members: impl IntoIterator<Item = (String, PeerId)>) -> Self {
        Self {
            group_name: group_name.into(),
            members: members.into_iter().collect(),
            core: Config::default(),
            directory: None,
            durability: Durability::Memory,
            channel: Channel(0),
            queue_max: 65_536,
            max_command_bytes: 1 << 20,
            log_queue_bytes_max: 64 << 20,
            shutdown_timeout: Duration::from_secs(5),
        }
    }

    /// Keeps the log in this directory, each change synced before any message depends on it.
    #[must_use]
    pub fn durable(self, directory: impl Into<PathBuf>) -> Self {
        Self { directory: Some(directory.into()), durability: Durability::Sync, ..self }
    }

    /// Checks how the values fit together.
    ///
    /// # Errors
    /// [`PbftConfigError`] says what to change.
    pub fn validate(&self) -> Result<(), PbftConfigError> {
        self.core.validate()?;
        for name in self.members.keys() {
            MemberId::new(name.as_str())?;
        }
        self.genesis()?;
        if self.queue_max == 0 || self.log_queue_bytes_max == 0 {
            return Err(PbftConfigError::NoQueue);
        }
        if self.max_command_bytes.saturating_add(COMMAND_OVERHEAD) > self.core.batch_bytes_max {
            return Err(PbftConfigError::CommandTooLarge);
        }
        if self.channel.0 == u8::MAX {
            return Err(PbftConfigError::LastChannel);
        }
        Ok(())
    }

    /// The first membership.
    ///
    /// # Errors
    /// [`PbftConfigError`] when these can be no members.
    pub fn genesis(&self) -> Result<Membership, PbftConfigError> {
        let members = self.members.iter().map(|(name, peer)| (name.clone(), PublicKey(*peer.as_bytes())));
        Ok(Membership::genesis(members)?)
    }

    /// Digest that stands for the group in everything that is signed: its name and its first members.
    ///
    /// # Errors
    /// [`PbftConfigError`] when these can be no members.
    pub fn group(&self) -> Result<Digest, PbftConfigError> {
        let genesis = self.genesis()?;
        Ok(Digest::of("orch pbft group", &[self.group_name.as_bytes(), &genesis.digest().0]))
    }

    /// Refuses a transport that cannot serve this group, or has another key.
    pub(super) fn check_transport(
        &self,
        transport: &dyn Transport,
        key: &PublicKey,
    ) -> Result<(), PbftConfigError> {
        let capabilities = transport.capabilities();
        if !capabilities.authenticated {
            return Err(PbftConfigError::NotAuthenticated);
        }
        if transport.local_peer().as_bytes() != &key.0 {
            return Err(PbftConfigError::OtherKey);
        }
        if capabilities.max_message_bytes < self.message_bytes_max() {
            return Err(PbftConfigError::SmallMessages {
                max: capabilities.max_message_bytes,
                needed: self.message_bytes_max(),
            });
        }
        Ok(())
    }

    /// The largest message between members that is taken.
    pub(super) fn message_bytes_max(&self) -> usize {
        2 * self.core.batch_bytes_max + MESSAGE_SLACK
    }
}

/// Invalid values of a [`PbftConfig`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PbftConfigError {
    /// The parameters of the protocol do not fit together.
    #[error("the parameters in core cannot work")]
    Core(#[from] ConfigError),
    /// These cannot be the first members.
    #[error("members cannot found a group")]
    Members(#[from] MembershipError),
    /// A member has an impossible name.
    #[error("members has an impossible name")]
    Name(#[from] MemberIdError),
    /// A bound is 0.
    #[error("queue_max and log_queue_bytes_max must not be 0")]
    NoQueue,
    /// Commands may be larger than batches.
    #[error("max_command_bytes must be {COMMAND_OVERHEAD} below core.batch_bytes_max at least")]
    CommandTooLarge,
    /// There is no channel after this one.
    #[error("channel must be followed by another one")]
    LastChannel,
    /// A directory for a log that is not kept.
    #[error("directory is given, and durability says that nothing is kept")]
    DirectoryWithoutDurability,
    /// No directory for a log that is kept.
    #[error("durability needs a directory")]
    NoDirectory,
    /// A disk besides a directory, or for a log that is not kept.
    #[error("a disk replaces directory, and durability must not be Memory")]
    DiskAndDirectory,
    /// The transport cannot authenticate senders.
    #[error("the transport does not authenticate the senders of messages")]
    NotAuthenticated,
    /// The transport belongs to another member.
    #[error("the transport and the signer have different keys")]
    OtherKey,
    /// The transport takes smaller messages than the group needs.
    #[error(
        "the transport takes messages of {max} bytes at most; batches of core.batch_bytes_max need {needed}"
    )]
    SmallMessages {
        /// Bytes that the transport takes.
        max: usize,
        /// Bytes that the group needs.
        needed: usize,
    },
}
