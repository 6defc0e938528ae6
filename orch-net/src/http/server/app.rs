//! What all requests share.

use std::{net::SocketAddr, sync::Arc};

use orch_core::{Orchestrator, engine::ControlLink};
use tokio::sync::watch;

use super::{
    auth::Tokens,
    config::{Limits, ServerConfig},
    legacy::{LegacyConfig, Offers},
    metrics::Metrics,
};

pub(super) type App = Arc<Shared>;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) orchestrator: Orchestrator,
    pub(super) link: Arc<dyn ControlLink>,
    pub(super) tokens: Tokens,
    pub(super) limits: Limits,
    pub(super) legacy: LegacyConfig,
    pub(super) offers: Offers,
    pub(super) metrics: Arc<Metrics>,
    /// Only this machine reaches the server.
    pub(super) loopback: bool,
    /// Which life of a server this is; positions of events of another life mean something else.
    pub(super) epoch: u64,
    closing: watch::Receiver<bool>,
}

impl Shared {
    pub(super) fn new(
        config: &ServerConfig,
        address: SocketAddr,
        orchestrator: Orchestrator,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            link: orchestrator.link(),
            orchestrator,
            tokens: config.tokens.clone(),
            limits: config.limits,
            legacy: config.legacy.clone(),
            offers: Offers::default(),
            metrics: Arc::default(),
            loopback: address.ip().is_loopback(),
            epoch: uuid::Uuid::new_v4().as_u64_pair().0,
            closing,
        }
    }

    /// Resolves when streams and long polls should end.
    pub(super) async fn closed(&self) {
        // An error means that the server is gone.
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
    }
}
