//! Tasks by what they have in common, for commands on many.

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser as _},
};
use orch_core::{engine::TaskFilter, model::NodeId, state::TaskStatus};

use super::session::Session;
use crate::config::units;

/// Options that select tasks; together they must all hold.
#[derive(Debug, Default, Args)]
pub(super) struct Selection {
    /// Only tasks with this status; several are separated by commas.
    #[arg(
        long,
        value_name = "STATUS",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(TaskStatus::ALL.map(TaskStatus::as_str)).try_map(|text| text.parse::<TaskStatus>())
    )]
    pub(super) status: Vec<TaskStatus>,
    /// Only tasks with this name.
    #[arg(long)]
    name: Option<String>,
    /// Only tasks on this node now.
    #[arg(long)]
    node: Option<NodeId>,
    /// Only tasks with this label.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = units::pair)]
    label: Option<(String, String)>,
}

impl Selection {
    /// Whether nothing was selected.
    pub(super) fn is_empty(&self) -> bool {
        self.status.is_empty() && self.name.is_none() && self.node.is_none() && self.label.is_none()
    }

    /// Filter of the selected tasks in the session's namespace.
    pub(super) fn filter(&self, session: &Session) -> TaskFilter {
        TaskFilter {
            statuses: self.status.clone(),
            namespace: session.namespace.clone(),
            name: self.name.clone(),
            node: self.node.clone(),
            label: self.label.clone(),
            ..TaskFilter::default()
        }
    }
}
