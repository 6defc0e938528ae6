//! Faults that can be seeded into the engine one by one, to prove that the simulation would find each.

/// Seeded fault of the engine. Only builds with `--cfg orch_seeded_faults` can activate one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EngineFault {
    /// An agent forgets an attempt as soon as it has ended.
    EndsForgotten = 1,
    /// Calls of an earlier registration count.
    SessionsNotChecked,
    /// A member serves agents from its local state, however far it is behind.
    AnswersWithoutBarrier,
    /// A decision that writes nothing is made on a state that may be stale.
    EmptyDecisionsNotChecked,
    /// A proposer's clock does not continue from the cluster's time.
    ClockNotHybrid,
    /// A member needs a moment without decisions to start.
    StartNeedsQuiet,
    /// An attempt that was given up with its node stays given up.
    LostAttemptsNotTakenBack,
}

impl EngineFault {
    /// All faults, with their names on the command line.
    pub const ALL: &[(&str, Self)] = &[
        ("ends-forgotten", Self::EndsForgotten),
        ("sessions-not-checked", Self::SessionsNotChecked),
        ("answers-without-barrier", Self::AnswersWithoutBarrier),
        ("empty-decisions-not-checked", Self::EmptyDecisionsNotChecked),
        ("clock-not-hybrid", Self::ClockNotHybrid),
        ("start-needs-quiet", Self::StartNeedsQuiet),
        ("lost-attempts-not-taken-back", Self::LostAttemptsNotTakenBack),
    ];
}

#[cfg(orch_seeded_faults)]
mod active {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::EngineFault;

    static ACTIVE: AtomicU8 = AtomicU8::new(0);

    impl EngineFault {
        /// Activates this fault from now on, in the whole process.
        pub fn make(fault: Option<Self>) {
            ACTIVE.store(fault.map_or(0, |fault| fault as u8), Ordering::SeqCst);
        }

        pub(crate) fn is_made(self) -> bool {
            ACTIVE.load(Ordering::Relaxed) == self as u8
        }
    }
}

#[cfg(not(orch_seeded_faults))]
impl EngineFault {
    #[expect(clippy::unused_self, reason = "an ordinary build makes none")]
    pub(crate) const fn is_made(self) -> bool {
        false
    }
}
