//! [`Session`]: a cluster for commands.

use std::sync::Arc;

use orch_core::model::Namespace;
use orch_net::http::Api;

use crate::{say, style::Style};

/// A cluster for commands, and how they answer.
#[derive(Clone, Debug)]
pub struct Session {
    pub(super) style: Style,
    pub(super) api: Arc<dyn Api>,
    /// JSON for programs instead of tables for people.
    pub(super) json: bool,
    /// Only tasks of this namespace.
    pub(super) namespace: Option<Namespace>,
}

impl Session {
    /// A session on this cluster, which prints tables.
    #[must_use]
    pub fn new(style: Style, api: Arc<dyn Api>) -> Self {
        Self { style, api, json: false, namespace: None }
    }

    /// The same, printing JSON for programs.
    #[must_use]
    pub fn json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    /// The same, for tasks of this namespace only.
    #[must_use]
    pub fn namespace(self, namespace: Option<Namespace>) -> Self {
        Self { namespace, ..self }
    }

    /// Prints a line for people on standard error.
    pub(super) fn note(&self, line: impl std::fmt::Display) {
        say::note(&self.style, line);
    }
}
