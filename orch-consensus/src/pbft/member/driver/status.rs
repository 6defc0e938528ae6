//! Status of the member.

use crate::pbft::core::{
    ids::{Epoch, Seq, View},
    replica::Replica,
};
use crate::pbft::member::calls::Shared;

/// Status that was last reported, and the present problems.
#[derive(Debug, Default)]
pub(super) struct StatusReport {
    shown: Option<Shown>,
    pub(super) problems: Problems,
}

#[derive(Debug, PartialEq, Eq)]
struct Shown {
    applied: Seq,
    leads: bool,
    epoch: Epoch,
    problems: Problems,
}

/// Possible problems, the worst first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Problems {
    pub(super) diverged: Option<Seq>,
    pub(super) log: Option<String>,
    pub(super) transport_closed: bool,
    pub(super) fetching: Option<Seq>,
    outside: bool,
    leaving: Option<View>,
}

impl Problems {
    fn text(&self) -> Option<String> {
        let diverged = |seq| format!("the state here is not what the group agreed on at {seq}");
        let fetching = |seq| format!("this member is behind and gets the state of {seq} from others");
        let leaving = |view| format!("the members are agreeing on who leads ({view})");
        let outside = || "this replica is no member of the group".to_owned();
        let transport_closed = || "the transport is closed".to_owned();
        self.diverged
            .map(diverged)
            .or_else(|| self.log.clone())
            .or_else(|| self.transport_closed.then(transport_closed))
            .or_else(|| self.fetching.map(fetching))
            .or_else(|| self.outside.then(outside))
            .or_else(|| self.leaving.map(leaving))
    }
}

impl StatusReport {
    /// Brings the status up to date, where it changed.
    pub(super) fn show(&mut self, replica: &Replica, shared: &Shared) {
        let (view, begun) = replica.view();
        self.problems.leaving = (!begun).then_some(view);
        self.problems.outside = !replica.is_member();
        let same = self.shown.as_ref().is_some_and(|shown| {
            shown.applied == replica.executed()
                && shown.leads == replica.leads()
                && shown.epoch == replica.membership().epoch()
                && shown.problems == self.problems
        });
        if same {
            return;
        }
        let now = Shown {
            applied: replica.executed(),
            leads: replica.leads(),
            epoch: replica.membership().epoch(),
            problems: self.problems.clone(),
        };
        let changed = self.shown.as_ref().is_none_or(|shown| shown.epoch != now.epoch);
        shared.saw(replica.machine().time());
        shared.change_status(|status| {
            status.applied = orch_core::store::Revision(now.applied.0);
            status.leader = now.leads;
            status.last_error = now.problems.text();
            if changed {
                let members = replica.membership().members();
                status.members = members.iter().filter_map(|member| member.name.parse().ok()).collect();
                status.members.sort_unstable();
            }
        });
        self.shown = Some(now);
    }
}
