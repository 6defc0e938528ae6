//! Pool of connections for reads, and for other statements that may be carried out twice.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use orch_core::store::StoreError;
use tokio::sync::Mutex;
use tokio_postgres::{Row, Statement, types::ToSql};

use super::{
    error::{self, Cause},
    session::{Connector, Session, Statements},
};

/// A few connections that serve many readers: requests follow each other on a connection without waiting for
/// answers.
pub(super) struct Readers {
    connector: Arc<Connector>,
    slots: Box<[Mutex<Option<Arc<Session>>>]>,
    next: AtomicUsize,
}

/// Choice of a pooled connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Any,
    New,
}

impl Readers {
    pub(super) fn new(connector: Arc<Connector>, count: NonZeroUsize) -> Self {
        let slots = (0..count.get()).map(|_| Mutex::new(None)).collect();
        Self { connector, slots, next: AtomicUsize::new(0) }
    }

    /// Rows of a statement that may be carried out twice: once more on a new connection when the first was
    /// lost under it, or was silent, because the others may have been lost with it and not know it yet.
    pub(super) async fn query(
        &self,
        operation: &'static str,
        statement: fn(&Statements) -> &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, StoreError> {
        let mut freshness = Freshness::Any;
        loop {
            let session = self.session(freshness).await?;
            let limit = self.connector.timeout;
            let cause = match session.rows(statement(&session.statements), parameters, limit).await {
                Ok(rows) => return Ok(rows),
                Err(cause) => cause,
            };
            let lost = match &cause {
                Cause::Client { source } => error::is_connection(source),
                _ => true,
            };
            if !lost || freshness == Freshness::New {
                return Err(match cause {
                    Cause::Client { source } => error::statement(operation, source),
                    cause => error::backend(operation, true, cause),
                });
            }
            freshness = Freshness::New;
        }
    }

    pub(super) async fn close(&self) {
        for slot in &self.slots {
            slot.lock().await.take();
        }
    }

    async fn session(&self, freshness: Freshness) -> Result<Arc<Session>, StoreError> {
        let index = self.next.fetch_add(1, Ordering::Relaxed) % self.slots.len();
        let mut slot = self.slots[index].lock().await;
        match &*slot {
            Some(session) if freshness == Freshness::Any && session.is_usable() => Ok(Arc::clone(session)),
            _ => Ok(Arc::clone(slot.insert(Arc::new(self.connector.session().await?)))),
        }
    }
}
