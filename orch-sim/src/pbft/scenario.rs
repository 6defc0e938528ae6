use std::time::Duration;

use orch_consensus::pbft::{Config, SeededFault};

use super::{byzantine::Attack, group};
use crate::{NemesisSettings, NodeId, Random};

/// Parameters of a simulated run. Everything follows from the seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Seed of all randomness.
    pub seed: u64,
    /// Replicas at the beginning.
    pub replicas: usize,
    /// Those that are Byzantine, at most f, and their attacks.
    pub byzantine: Vec<(NodeId, Attack)>,
    /// A node joins and one leaves during the run.
    pub members_change: bool,
    /// Clients are at this node only.
    pub only_client: Option<NodeId>,
    /// This node is down until shortly before the end of the faults.
    pub absent: Option<NodeId>,
    /// The window is as short as it can be, so that each checkpoint counts.
    pub narrow: bool,
    /// There is a client that is no member, at the last node.
    pub external_client: bool,
    /// Seeded fault of all correct replicas.
    pub seeded_fault: Option<SeededFault>,
    /// End of the faults.
    pub heal_at: Duration,
    /// End of the clients' operations.
    pub clients_until: Duration,
    /// Time at which all correct replicas have to be equal.
    pub end: Duration,
}

impl Scenario {
    /// The scenario of a seed: 60 seconds, faults for 30 of them, then liveness.
    #[must_use]
    pub fn from_seed(seed: u64, replicas: usize) -> Self {
        let mut random = Random::new(seed ^ 0x5ca1_ab1e);
        let faulty = (replicas - 1) / 3;
        let mut nodes: Vec<NodeId> = (0..replicas).collect();
        random.shuffle(&mut nodes);
        let count = usize::try_from(random.below(faulty as u64 + 1)).unwrap_or(0);
        let byzantine = nodes
            .into_iter()
            .take(count)
            .filter_map(|node| Some((node, *random.choose(Attack::ALL)?)))
            .collect();
        Self {
            seed,
            replicas,
            byzantine,
            members_change: random.chance(200),
            only_client: random
                .chance(100)
                .then(|| usize::try_from(random.below(replicas as u64)).unwrap_or(0)),
            absent: random.chance(100).then(|| usize::try_from(random.below(replicas as u64)).unwrap_or(0)),
            narrow: random.chance(200),
            external_client: random.chance(300),
            seeded_fault: None,
            heal_at: Duration::from_secs(30),
            clients_until: Duration::from_secs(45),
            end: Duration::from_secs(60),
        }
    }

    /// Scenarios in which a mistake has consequences, if it has any: the general ones, bent to where it
    /// matters.
    #[must_use]
    pub fn hunting(fault: SeededFault, seed: u64, replicas: usize) -> Self {
        let mut scenario = Self { seeded_fault: Some(fault), ..Self::from_seed(seed, replicas) };
        let node = usize::try_from(seed % replicas as u64).unwrap_or(0);
        let attack = match fault {
            SeededFault::ProposalsNotRecomputed => Some((1, Attack::BadNewView)),
            SeededFault::TimerNeedsOwnRequest => Some((0, Attack::Mute)),
            SeededFault::LockAcrossViews => Some((node, Attack::NeverCommit)),
            SeededFault::SnapshotNotVerified => Some((node, Attack::LyingSupply)),
            SeededFault::SignaturesNotChecked => Some((node, Attack::Forge)),
            SeededFault::StaleEpochAccepted => Some((node, Attack::StaleEpoch)),
            SeededFault::EvidenceDropped => Some((node, Attack::Equivocate)),
            SeededFault::ReadWithoutFallback => Some((node, Attack::FalseReads)),
            SeededFault::OneReplyBelieved => Some((node, Attack::FalseReplies)),
            _ => None,
        };
        if let Some((node, attack)) = attack {
            scenario.byzantine = vec![(node, attack)];
            scenario.absent = (fault == SeededFault::SnapshotNotVerified).then_some((node + 1) % replicas);
            scenario.only_client = (fault == SeededFault::TimerNeedsOwnRequest).then_some(1);
            scenario.members_change |= fault == SeededFault::StaleEpochAccepted;
        }
        scenario.narrow |= fault == SeededFault::CheckpointNotResent;
        scenario.external_client |= fault == SeededFault::OneReplyBelieved;
        scenario
    }

    /// Nodes on which replicas run, also those that join later.
    pub(super) fn hosts(&self) -> usize {
        self.replicas + usize::from(self.members_change)
    }

    /// The node of the client that is no member.
    pub(super) fn external_client(&self) -> Option<NodeId> {
        self.external_client.then(|| self.hosts())
    }

    /// Small numbers everywhere, so that everything happens often.
    pub(super) fn config(&self) -> Config {
        Config {
            checkpoint_interval: 8,
            window: if self.narrow { 8 } else { 16 },
            pipeline: 3,
            batch_commands_max: 8,
            batch_bytes_max: 4096,
            batch_delay: Duration::from_millis(2),
            request_timeout: BASE_TIMEOUT,
            request_timeout_max: BASE_TIMEOUT * 2,
            status_interval: Duration::from_millis(200),
            snapshot_bytes_min: 3000,
            clients: self.external_client().map(group::key).into_iter().collect(),
            seeded_fault: self.seeded_fault,
            ..Config::default()
        }
    }

    pub(super) fn nemesis(&self, random: &mut Random) -> NemesisSettings {
        let all = random.chance(700);
        NemesisSettings {
            end: self.heal_at,
            max_down: usize::try_from(1 + random.below(self.replicas as u64)).unwrap_or(1),
            crashes: all || random.chance(500),
            partitions: all || random.chance(500),
            one_way_partitions: all || random.chance(500),
            network_conditions: all || random.chance(500),
            pauses: all || random.chance(500),
            ..NemesisSettings::default()
        }
    }

    /// The command that runs it again.
    #[must_use]
    pub fn replay(&self) -> String {
        let fault = SeededFault::ALL.iter().find(|(_, fault)| Some(*fault) == self.seeded_fault);
        let fault = fault.map(|(name, _)| format!(" --fault {name}")).unwrap_or_default();
        format!("cargo xtask sim replay --seed {} --replicas {}{fault}", self.seed, self.replicas)
    }
}

/// The timeout that liveness is measured with.
pub(super) const BASE_TIMEOUT: Duration = Duration::from_secs(1);
