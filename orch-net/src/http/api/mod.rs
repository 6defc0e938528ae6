//! The engine's API: its routes, and errors of the engine as problems.

mod agent;
mod app;
mod embedded;
mod events;
mod logs;
mod metrics;
mod nodes;
mod openapi;
mod operations;
mod problems;
mod routes;
mod tasks;

use std::sync::Arc;

use axum::Router;

pub use app::Advice;
pub(super) use app::Shared;
pub use embedded::Embedded;
pub use operations::{Api, Events, OutputChunks};
pub use problems::kinds;

/// Router of the engine's API.
pub(super) fn router(shared: Shared) -> Router {
    let shared = Arc::new(shared);
    routes::table(&shared.shell).with_state(shared.clone())
}
