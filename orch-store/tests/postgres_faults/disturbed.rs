//! Faults that the conformance suite asks for.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orch_core::{
    store::StateStore,
    testkit::store::{
        Disturbance, StoreHarness, a_store_that_comes_back_older_says_so,
        a_store_that_is_held_up_answers_in_time, deciders_go_on_after_a_store_came_back_older,
    },
};
use orch_store::postgres::PostgresStoreConfig;
use tokio::sync::Mutex;

use super::{
    at,
    common::variable,
    open,
    pair::{Pair, Standby},
    proxy::{Fault, Proxy},
    psql, server,
};

/// One store, and what holds it up.
struct Disturbed {
    config: PostgresStoreConfig,
    by: By,
}

enum By {
    Takeover(Pair),
    Proxy(Proxy),
    Holder(Mutex<tokio_postgres::Client>),
}

#[async_trait]
impl StoreHarness for Disturbed {
    async fn open(&self, _: &str) -> Arc<dyn StateStore> {
        open(&self.config).await
    }

    fn reopens(&self) -> bool {
        true
    }

    async fn begin(&self, _: Disturbance, _: &str) {
        match &self.by {
            By::Takeover(pair) => pair.cut_off(),
            By::Proxy(proxy) => proxy.set(Fault::Silence),
            By::Holder(holder) => {
                let hold = "BEGIN; SELECT FROM meta FOR UPDATE";
                holder.lock().await.batch_execute(hold).await.unwrap();
            }
        }
    }

    async fn end(&self, _: Disturbance, _: &str) {
        match &self.by {
            By::Takeover(pair) => pair.fail_over(),
            By::Proxy(proxy) => proxy.set(None),
            By::Holder(holder) => holder.lock().await.batch_execute("ROLLBACK").await.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_was_behind_takes_over() {
    let pair = Pair::start(Standby::Asynchronous).await;
    let config = PostgresStoreConfig::from_url(&pair.url()).unwrap();
    a_store_that_comes_back_older_says_so(&Disturbed { config, by: By::Takeover(pair) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_go_on_where_a_standby_that_was_behind_takes_over() {
    let pair = Pair::start(Standby::Asynchronous).await;
    let config = PostgresStoreConfig::from_url(&pair.url()).unwrap();
    deciders_go_on_after_a_store_came_back_older(&Disturbed { config, by: By::Takeover(pair) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_answers_in_time() {
    let proxy = Proxy::before(server().1).await;
    let config = PostgresStoreConfig { timeout: Duration::from_secs(1), ..at(&proxy.address) };
    let disturbed = Disturbed { config, by: By::Proxy(proxy) };
    a_store_that_is_held_up_answers_in_time(&disturbed, Disturbance::Slow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_store_answers_in_time() {
    let config = PostgresStoreConfig { timeout: Duration::from_secs(1), ..at(&server().1) };
    let holder = psql(&variable("ORCH_TEST_POSTGRES"), &config.schema).await;
    let disturbed = Disturbed { config, by: By::Holder(Mutex::new(holder)) };
    a_store_that_is_held_up_answers_in_time(&disturbed, Disturbance::Locked).await;
}
