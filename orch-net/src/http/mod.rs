//! The API over HTTP/1.1, in three rooms: [`shell`] is a server without routes, `api` the engine's routes,
//! `client` calls them. [`Server`] puts them in front of an [`Orchestrator`](orch_core::Orchestrator),
//! [`Client`] calls it ([`Api`] is a cluster there or in this process), [`HttpLink`] joins an
//! [`Agent`](orch_core::engine::Agent) to it. `GET /openapi.json` describes it. A style mounts routes of its
//! own beside them ([`Server::mount`]), and calls servers of others with a [`JsonClient`].

mod api;
mod client;
mod server;
pub mod shell;
mod sse;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod wire;

pub use api::{Advice, Api, Embedded, Events, OutputChunks, kinds};
pub use client::{
    Call, Client, ClientConfig, ClientError, EventStart, EventSubscription, HttpLink, JsonClient,
    JsonClientConfig, LogLines, Positioned, Timeouts, TokenState,
};
pub use server::{Mount, Server, ServerConfig};
pub use shell::{Limits, ServerError, TlsFiles, TokenError, Tokens};
