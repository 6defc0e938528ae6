//! The ground floor of orch: what several of its crates need and no caller of the API sees. Nothing here
//! knows of tasks, nodes or an asynchronous runtime, and nothing here is a promise to users of `orch-core`.

pub mod backoff;
pub mod codec;
pub mod files;
