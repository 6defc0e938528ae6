//! The API over HTTP/1.1: [`Server`] puts it in front of an [`Orchestrator`](orch_core::Orchestrator),
//! [`Client`] calls it, [`HttpLink`] joins an [`Agent`](orch_core::engine::Agent) to it. `GET /openapi.json`
//! describes it. [`LegacyLink`] joins an agent to a manager of rust-orch.

mod client;
mod legacy;
mod server;
mod sse;
pub mod wire;

pub use client::{
    Client, ClientConfig, ClientError, EventStart, EventSubscription, HttpLink, LegacyLink, LegacyLinkConfig,
    LegacyLinkError, LogLines, Positioned, Timeouts, TokenState,
};
pub use server::{LegacyConfig, Limits, Server, ServerConfig, ServerError, TlsFiles, TokenError, Tokens};
