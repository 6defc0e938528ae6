//! Seeded faults: mistakes that an implementation could make, one by one, so that it can be shown that the
//! tests would find each. The [interceptor](super::replica) makes most of them at the edges of a replica; the
//! others are [guards](super::guard) that do not hold, and quorums that are too small.

use std::time::Duration;

use super::{config::Config, guard::Guard};

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeededFault {
    /// Quorums are one vote too small.
    QuorumOffByOne,
    /// A vote goes out before the log holds what it stands for, and the log never does.
    VoteNotPersisted,
    /// A backup believes the NEW-VIEW's proposals instead of working them out.
    ProposalsNotRecomputed,
    /// A new primary works out its proposals from the view changes that start from the same checkpoint only.
    MatchingCheckpointsOnly,
    /// A VIEW-CHANGE is sent once.
    ViewChangeNotResent,
    /// A replica on its way to a view learns nothing about what the views before decided.
    CommitsIgnoredWhileChanging,
    /// A backup takes no requests of other clients, so that its timer runs for its own alone.
    TimerNeedsOwnRequest,
    /// Unprepared proposals of the old view stay in their slots.
    StaleProposalKept,
    /// A replica that prepared a batch never accepts another at its sequence number.
    LockAcrossViews,
    /// A read waits for its answers without ever being ordered instead.
    ReadWithoutFallback,
    /// A checkpoint vote is sent once.
    CheckpointNotResent,
    /// The table of answered requests does not come back with a snapshot of the log.
    ReplyCacheLost,
    /// Votes of an earlier epoch count.
    StaleEpochAccepted,
    /// Conflicting votes are not kept.
    EvidenceDropped,
    /// Proposals beyond the window are accepted.
    WatermarkNotEnforced,
    /// Votes count without their signatures being checked.
    SignaturesNotChecked,
    /// Snapshots are believed without their hashes.
    SnapshotNotVerified,
    /// A request is executed as often as it is proposed.
    ExecutedTwice,
    /// The primary's clock is believed.
    TimeNotBounded,
    /// A client believes a single replica.
    OneReplyBelieved,
}

impl SeededFault {
    /// All of them, with the names that commands use.
    pub const ALL: &[(&str, Self)] = &[
        ("quorum-off-by-one", Self::QuorumOffByOne),
        ("vote-not-persisted", Self::VoteNotPersisted),
        ("proposals-not-recomputed", Self::ProposalsNotRecomputed),
        ("matching-checkpoints-only", Self::MatchingCheckpointsOnly),
        ("view-change-not-resent", Self::ViewChangeNotResent),
        ("commits-ignored-while-changing", Self::CommitsIgnoredWhileChanging),
        ("timer-needs-own-request", Self::TimerNeedsOwnRequest),
        ("stale-proposal-kept", Self::StaleProposalKept),
        ("lock-across-views", Self::LockAcrossViews),
        ("read-without-fallback", Self::ReadWithoutFallback),
        ("checkpoint-not-resent", Self::CheckpointNotResent),
        ("reply-cache-lost", Self::ReplyCacheLost),
        ("stale-epoch-accepted", Self::StaleEpochAccepted),
        ("evidence-dropped", Self::EvidenceDropped),
        ("watermark-not-enforced", Self::WatermarkNotEnforced),
        ("signatures-not-checked", Self::SignaturesNotChecked),
        ("snapshot-not-verified", Self::SnapshotNotVerified),
        ("executed-twice", Self::ExecutedTwice),
        ("time-not-bounded", Self::TimeNotBounded),
        ("one-reply-believed", Self::OneReplyBelieved),
    ];

    /// The guard that this mistake leaves out.
    pub(super) fn ignores(self) -> Option<Guard> {
        match self {
            Self::StaleEpochAccepted => Some(Guard::CurrentEpoch),
            Self::ProposalsNotRecomputed => Some(Guard::ProposalsFollow),
            Self::ExecutedTwice => Some(Guard::NotExecutedBefore),
            Self::SnapshotNotVerified => Some(Guard::StateDigest),
            _ => None,
        }
    }

    /// The parameters of a replica that makes this mistake.
    pub(super) fn configure(self, config: Config) -> Config {
        const YEARS: Duration = Duration::from_secs(100 * 365 * 86_400);
        match self {
            Self::WatermarkNotEnforced => Config { window: config.window * 8, ..config },
            Self::TimeNotBounded => Config { clock_ahead_max: YEARS, clock_behind_max: YEARS, ..config },
            _ => config,
        }
    }
}
