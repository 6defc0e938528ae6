//! [`Layered`]: a part with steps of a test's own, for tests of what lies above the part. Each step that a
//! layer does not define goes through to the part below.

mod output;
mod runtime;
mod store;

pub use self::{output::OutputLayer, runtime::RuntimeLayer, store::StoreLayer};

/// A layer as the part that it changes.
#[derive(Clone, Debug, Default)]
pub struct Layered<L>(pub L);
