//! [`Lifecycle`]: the life of one attempt on its node as a function of what happens. It does nothing itself:
//! the executor carries out its [`Action`]s, one at a time, and brings back an [`Input`] for each.

use crate::{
    model::{AttemptEnd, StartFailure},
    runtime::{FoundState, Started},
    store::Revision,
};

/// State of an attempt that the cluster wants. Only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Desired {
    /// It should run.
    Running,
    /// It should stop and be reported.
    Stopped,
    /// It is superseded: anything that is there of it should be removed, without a report.
    Removed,
    /// This agent ends and leaves it to its next incarnation.
    Left,
}

/// End of an attempt that this node is done with.
#[derive(Clone, Debug, PartialEq)]
pub(in super::super) struct Over {
    pub(in super::super) end: AttemptEnd,
    /// The control side has it from this revision on.
    pub(in super::super) known_at: Revision,
}

/// Something that happened to the attempt.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// The cluster or the agent wants something else of it.
    Desired(Desired),
    /// Answer to [`Action::Start`].
    Started(Result<Started, AttemptEnd>),
    /// It ran for a while.
    Settled,
    /// The node has registered again.
    Registered,
    /// It has ended, or must end for this reason.
    Ended(AttemptEnd),
    /// Answer to [`Action::Stop`].
    Stopped,
    /// Answer to [`Action::Clear`].
    Cleared(Result<(), AttemptEnd>),
    /// Answer to [`Action::Flush`].
    Flushed,
    /// Answer to [`Action::Report`]: a revision at which it is decided; none where the node belongs to a
    /// newer process.
    Reported(Option<Revision>),
    /// Answer to [`Action::Remove`].
    Removed,
    /// The runtime panicked in whatever it was doing, with these words.
    Panicked(String),
}

/// Work for the executor. It takes the place of the work under way, except for [`Action::Announce`].
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Prepare and start it, or adopt what an earlier incarnation of the agent started.
    Start,
    /// Watch it until it ends.
    Watch(Started),
    /// Report that it runs, beside watching it.
    Announce,
    /// Stop it.
    Stop,
    /// Remove what may be there of it, before its end is reported.
    Clear,
    /// Deliver the rest of its output.
    Flush,
    /// Report its end until that is answered.
    Report(AttemptEnd),
    /// Remove what is left of it.
    Remove,
    /// Nothing more: it is over, or left to the agent's next incarnation.
    Finish(Option<Over>),
}

/// One attempt's life: started, watched, stopped where that is needed, its output delivered, its end
/// reported, removed.
///
/// An end that could be followed by another attempt is reported only when nothing of this one can run any
/// more.
#[derive(Debug)]
pub(super) struct Lifecycle {
    phase: Phase,
    /// It was reported as running.
    announced: bool,
}

#[derive(Debug)]
enum Phase {
    Starting,
    Running,
    Stopping(AttemptEnd),
    Clearing(AttemptEnd),
    Flushing(AttemptEnd),
    Reporting(AttemptEnd),
    Removing(Over),
    Finished,
}

impl Lifecycle {
    /// The life of an attempt that was observed running before, where `started`, and that an earlier
    /// incarnation of the agent has left in the state `here`.
    pub(super) fn new(started: bool, here: Option<FoundState>) -> (Self, Action) {
        // Also where the runtime has it as made and not started: what says that it was started may have gone
        // with the power.
        if started && matches!(here, None | Some(FoundState::Created)) {
            let end = lost("it was running before its node went down, and is not there any more");
            return (Self { phase: Phase::Reporting(end.clone()), announced: false }, Action::Report(end));
        }
        (Self { phase: Phase::Starting, announced: false }, Action::Start)
    }

    /// Goes on by one input. `None` leaves the work under way as it is.
    pub(super) fn step(&mut self, input: Input) -> Option<Action> {
        match (std::mem::replace(&mut self.phase, Phase::Finished), input) {
            (phase, Input::Desired(desired)) => self.pursue(phase, desired),
            (phase, Input::Panicked(words)) => Some(self.after_panic(phase, &words)),

            (Phase::Starting, Input::Started(Ok(started))) => {
                self.go_on(Phase::Running, Action::Watch(started))
            }
            (Phase::Starting, Input::Started(Err(end))) => Some(self.report(end)),

            (Phase::Running, Input::Settled) => {
                self.announced = true;
                self.go_on(Phase::Running, Action::Announce)
            }
            // What was observed of an attempt is forgotten with its node; where it is taken back, it has to
            // be observed again.
            (Phase::Running, Input::Registered) => {
                self.phase = Phase::Running;
                self.announced.then_some(Action::Announce)
            }
            (Phase::Running, Input::Ended(end)) => match end {
                AttemptEnd::Exited { .. } | AttemptEnd::Lost { .. } => {
                    self.go_on(Phase::Flushing(end), Action::Flush)
                }
                end => self.go_on(Phase::Stopping(end), Action::Stop),
            },
            (Phase::Stopping(end), Input::Stopped) => self.go_on(Phase::Flushing(end), Action::Flush),
            (Phase::Clearing(end), Input::Cleared(cleared)) => Some(self.report(match cleared {
                Err(failed) if end == AttemptEnd::Stopped => failed,
                _ => end,
            })),
            (Phase::Flushing(end), Input::Flushed) => Some(self.report(end)),
            (Phase::Reporting(end), Input::Reported(known_at)) => {
                Some(self.remove(Over { end, known_at: known_at.unwrap_or(Revision::ZERO) }))
            }
            (Phase::Removing(over), Input::Removed) => {
                self.go_on(Phase::Finished, Action::Finish(Some(over)))
            }
            // An answer that comes after the attempt has gone on is of no use.
            (phase, _) => {
                self.phase = phase;
                None
            }
        }
    }

    /// Goes on to what the cluster or the agent wants.
    fn pursue(&mut self, phase: Phase, desired: Desired) -> Option<Action> {
        match (phase, desired) {
            (phase, Desired::Running) | (phase @ Phase::Finished, _) => {
                self.phase = phase;
                None
            }
            (Phase::Removing(over), Desired::Left) => self.go_on(Phase::Finished, Action::Finish(Some(over))),
            (_, Desired::Left) => self.go_on(Phase::Finished, Action::Finish(None)),
            // A start that is under way may have happened.
            (Phase::Starting, Desired::Stopped) => {
                self.go_on(Phase::Clearing(AttemptEnd::Stopped), Action::Clear)
            }
            (Phase::Running, Desired::Stopped) => {
                self.go_on(Phase::Stopping(AttemptEnd::Stopped), Action::Stop)
            }
            (Phase::Reporting(end), Desired::Removed) => {
                Some(self.remove(Over { end, known_at: Revision::ZERO }))
            }
            (phase @ Phase::Removing(_), _) | (phase, Desired::Stopped) => {
                self.phase = phase;
                None
            }
            (_, Desired::Removed) => {
                let end = lost("the cluster had given it up, so its node removed it");
                Some(self.remove(Over { end, known_at: Revision::ZERO }))
            }
        }
    }

    /// The attempt may run, and another may follow: it is removed before the panic is reported. A panic while
    /// it is removed is not tried again.
    fn after_panic(&mut self, phase: Phase, words: &str) -> Action {
        let failure = StartFailure {
            reason: "runtime_panicked".into(),
            message: format!("the runtime panicked: {words}"),
            retryable: true,
        };
        match phase {
            Phase::Clearing(end @ AttemptEnd::StartFailed { .. }) => self.report(end),
            Phase::Reporting(end) => self.remove(Over { end, known_at: Revision::ZERO }),
            Phase::Removing(over) => {
                self.phase = Phase::Finished;
                Action::Finish(Some(over))
            }
            Phase::Finished => Action::Finish(None),
            _ => {
                self.phase = Phase::Clearing(AttemptEnd::StartFailed { failure: failure.into() });
                Action::Clear
            }
        }
    }

    fn report(&mut self, end: AttemptEnd) -> Action {
        self.phase = Phase::Reporting(end.clone());
        Action::Report(end)
    }

    fn remove(&mut self, over: Over) -> Action {
        self.phase = Phase::Removing(over);
        Action::Remove
    }

    fn go_on(&mut self, phase: Phase, action: Action) -> Option<Action> {
        self.phase = phase;
        Some(action)
    }
}

pub(super) fn lost(message: impl Into<String>) -> AttemptEnd {
    AttemptEnd::Lost { message: message.into() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Exit, Timestamp};

    fn started() -> Started {
        Started { handle: "h".into(), at: Timestamp::ZERO }
    }

    fn exited() -> AttemptEnd {
        AttemptEnd::Exited { exit: Exit::from_code(0) }
    }

    /// Names of the actions that these inputs lead to, after that of the beginning.
    fn actions(
        started: bool,
        here: Option<FoundState>,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Vec<String> {
        let (mut lifecycle, first) = Lifecycle::new(started, here);
        let next = inputs.into_iter().filter_map(|input| lifecycle.step(input));
        std::iter::once(first).chain(next.collect::<Vec<_>>()).map(|action| name(&action)).collect()
    }

    fn name(action: &Action) -> String {
        let name = match action {
            Action::Start => "start",
            Action::Watch(_) => "watch",
            Action::Announce => "announce",
            Action::Stop => "stop",
            Action::Clear => "clear",
            Action::Flush => "flush",
            Action::Report(end) => return format!("report {}", kind(end)),
            Action::Remove => "remove",
            Action::Finish(None) => "left",
            Action::Finish(Some(_)) => "finish",
        };
        name.into()
    }

    fn kind(end: &AttemptEnd) -> &'static str {
        match end {
            AttemptEnd::Exited { .. } => "exited",
            AttemptEnd::StartFailed { .. } => "start-failed",
            AttemptEnd::RunTimeout => "run-timeout",
            AttemptEnd::Unhealthy { .. } => "unhealthy",
            AttemptEnd::Stopped => "stopped",
            AttemptEnd::Lost { .. } => "lost",
            AttemptEnd::NodeLost => "node-lost",
        }
    }

    #[test]
    fn an_attempt_that_exits_is_flushed_reported_and_removed() {
        let inputs = [
            Input::Started(Ok(started())),
            Input::Settled,
            Input::Registered,
            Input::Ended(exited()),
            Input::Flushed,
            Input::Reported(Some(Revision(7))),
            Input::Removed,
        ];
        let expected =
            ["start", "watch", "announce", "announce", "flush", "report exited", "remove", "finish"];
        assert_eq!(actions(false, None, inputs), expected);
    }

    #[test]
    fn an_attempt_that_ends_soon_is_not_announced() {
        let inputs = [Input::Started(Ok(started())), Input::Registered, Input::Ended(exited())];
        assert_eq!(actions(false, None, inputs), ["start", "watch", "flush"]);
    }

    #[test]
    fn limits_and_failed_checks_stop_it_first() {
        for end in [AttemptEnd::RunTimeout, AttemptEnd::Unhealthy { output: String::new() }] {
            let inputs =
                [Input::Started(Ok(started())), Input::Ended(end.clone()), Input::Stopped, Input::Flushed];
            let reported = format!("report {}", kind(&end));
            assert_eq!(actions(false, None, inputs), ["start", "watch", "stop", "flush", &reported]);
        }
    }

    #[test]
    fn a_start_under_way_is_cleared_before_it_is_reported_as_stopped() {
        let stopped = Input::Desired(Desired::Stopped);
        let inputs = [stopped.clone(), Input::Started(Ok(started())), Input::Cleared(Ok(()))];
        assert_eq!(actions(false, None, inputs), ["start", "clear", "report stopped"]);
        let failed = Input::Cleared(Err(lost("no")));
        assert_eq!(actions(false, None, [stopped, failed]), ["start", "clear", "report lost"]);
    }

    #[test]
    fn what_ran_before_and_is_not_there_is_lost_and_never_started() {
        assert_eq!(actions(true, None, []), ["report lost"]);
        assert_eq!(actions(true, Some(FoundState::Created), []), ["report lost"]);
        assert_eq!(actions(true, Some(FoundState::Running), []), ["start"]);
    }

    #[test]
    fn a_superseded_attempt_is_removed_without_a_report() {
        let running = Input::Started(Ok(started()));
        let inputs = [running.clone(), Input::Desired(Desired::Removed), Input::Removed];
        assert_eq!(actions(false, None, inputs), ["start", "watch", "remove", "finish"]);
        let inputs = [running, Input::Ended(exited()), Input::Flushed, Input::Desired(Desired::Removed)];
        assert_eq!(actions(false, None, inputs), ["start", "watch", "flush", "report exited", "remove"]);
    }

    #[test]
    fn a_runtime_that_panics_is_cleared_up_after_once() {
        let panic = || Input::Panicked("oh".into());
        let inputs = [panic(), Input::Cleared(Err(lost("no"))), Input::Reported(None), panic()];
        let expected = ["start", "clear", "report start-failed", "remove", "finish"];
        assert_eq!(actions(false, None, inputs), expected);
        let expected = ["start", "clear", "report start-failed"];
        assert_eq!(actions(false, None, [panic(), panic()]), expected);
        let stopped = Input::Desired(Desired::Stopped);
        let expected = ["start", "clear", "clear", "report start-failed"];
        assert_eq!(actions(false, None, [stopped, panic(), Input::Cleared(Ok(()))]), expected);
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let desired = [Desired::Running, Desired::Stopped, Desired::Removed, Desired::Left];
        prop_oneof![
            prop::sample::select(desired.to_vec()).prop_map(Input::Desired),
            Just(Input::Started(Ok(started()))),
            Just(Input::Started(Err(lost("no")))),
            Just(Input::Settled),
            Just(Input::Registered),
            prop::sample::select(vec![exited(), lost("x"), AttemptEnd::RunTimeout]).prop_map(Input::Ended),
            Just(Input::Stopped),
            Just(Input::Cleared(Ok(()))),
            Just(Input::Flushed),
            Just(Input::Reported(Some(Revision(1)))),
            Just(Input::Removed),
            Just(Input::Panicked("oh".into())),
        ]
    }

    proptest! {
        #[test]
        fn nothing_runs_when_an_end_is_reported_and_nothing_follows_the_last_action(
            inputs in prop::collection::vec(any_input(), 0..40),
        ) {
            let (mut lifecycle, first) = Lifecycle::new(false, None);
            let (mut may_run, mut reports, mut finished) = (matches!(first, Action::Start), 0, false);
            for input in inputs {
                // These say by themselves that nothing runs.
                let ended = match &input {
                    Input::Started(Err(_)) | Input::Stopped | Input::Cleared(_) => true,
                    Input::Ended(end) => matches!(end, AttemptEnd::Exited { .. } | AttemptEnd::Lost { .. }),
                    _ => false,
                };
                // Clearing up is tried once after a panic.
                let ended = ended || matches!(input, Input::Panicked(_));
                let Some(action) = lifecycle.step(input) else { continue };
                prop_assert!(!finished || matches!(action, Action::Finish(_)), "{action:?}");
                match action {
                    Action::Start => prop_assert!(false, "started again"),
                    Action::Flush | Action::Report(_) => {
                        may_run &= !ended;
                        prop_assert!(!may_run, "it may run and is reported");
                        reports += usize::from(matches!(action, Action::Report(_)));
                    }
                    Action::Finish(_) => finished = true,
                    _ => {}
                }
            }
            prop_assert!(reports <= 1);
        }
    }
}
