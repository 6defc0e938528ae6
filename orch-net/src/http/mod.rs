//! The API over HTTP/1.1, in three rooms: [`shell`] is a server without routes, `api` the engine's routes,
//! `client` calls them. [`Server`] puts them in front of an [`Orchestrator`](orch_core::Orchestrator),
//! [`Client`] calls it
//! ([`Api`] is a cluster there or in this process), [`HttpLink`] joins an [`Agent`](orch_core::engine::Agent) to it. `GET /openapi.json`
//! describes it. A style mounts routes of its own beside them ([`Server::mount`]); those of rust-orch are
//! [`rust_orch`]. [`LegacyLink`] joins an agent to a manager of rust-orch.

mod api;
mod client;
mod legacy;
mod server;
pub mod shell;
mod sse;
pub mod wire;

pub use api::{Advice, Api, Embedded, Events, OutputChunks, kinds};
pub use client::{
    Client, ClientConfig, ClientError, EventStart, EventSubscription, HttpLink, LegacyLink, LegacyLinkConfig,
    LegacyLinkError, LogLines, Positioned, Timeouts, TokenState,
};
pub use legacy::{LegacyConfig, rust_orch};
pub use server::{Mount, Server, ServerConfig};
pub use shell::{Limits, ServerError, TlsFiles, TokenError, Tokens};
