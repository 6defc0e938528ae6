//! The Redis store against a real server: the conformance suite, also while the server is killed, several
//! processes, what it declares of its durability, and what people see.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use orch_core::{
    store::{Durability, Position, Revision, StateStore, StoreError},
    testkit::store::run_all,
};
use orch_store::redis::{RedisStore, RedisStoreConfig};

use common::{
    full, put,
    server_store::{LogOnServer, OnServer, ServerBackend, log_on_server_suite, server_store_suite},
    unused_name, variable,
};

fn server() -> String {
    variable("ORCH_TEST_REDIS")
}

fn fresh() -> RedisStoreConfig {
    RedisStoreConfig { namespace: unused_name(), ..RedisStoreConfig::from_url(&server()).unwrap() }
}

async fn open(config: &RedisStoreConfig) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(config.clone()).await.unwrap())
}

async fn turn(alone: bool) -> std::fs::File {
    common::turn(&variable("ORCH_TEST_REDIS_CRASH"), alone).await
}

/// A connection past the store.
async fn cli() -> redis::aio::MultiplexedConnection {
    redis::Client::open(server()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

/// A store over encrypted connections.
fn encrypted() -> RedisStoreConfig {
    let files = variable("ORCH_TEST_REDIS_CERTIFICATES");
    let files = format!("ca={files}/ca.pem&cert={files}/client.pem&key={files}/client.key");
    RedisStoreConfig::from_url(&format!("{}?{files}", variable("ORCH_TEST_REDIS_TLS"))).unwrap()
}

struct Redis;

#[async_trait]
impl ServerBackend for Redis {
    type Config = RedisStoreConfig;

    const DENSE: bool = true;

    fn fresh() -> RedisStoreConfig {
        fresh()
    }

    fn unpolled() -> RedisStoreConfig {
        RedisStoreConfig { poll_interval: Duration::from_secs(600), ..fresh() }
    }

    fn nowhere() -> RedisStoreConfig {
        let retry_deadline = Duration::from_millis(300);
        RedisStoreConfig {
            retry_deadline,
            ..RedisStoreConfig::from_url("redis://:hidden@127.0.0.1:1").unwrap()
        }
    }

    async fn open(config: &RedisStoreConfig) -> Result<Arc<dyn StateStore>, StoreError> {
        Ok(Arc::new(RedisStore::open(config.clone()).await?))
    }

    async fn turn(alone: bool) -> Option<std::fs::File> {
        Some(turn(alone).await)
    }
}

#[async_trait]
impl LogOnServer for Redis {
    fn bounded(history_revisions: NonZeroU64) -> RedisStoreConfig {
        RedisStoreConfig { history_revisions, ..fresh() }
    }

    async fn log_is_exact(config: &RedisStoreConfig, oldest: Revision) -> bool {
        let log = format!("{{{}}}:log", config.namespace);
        let left: u64 = redis::cmd("XLEN").arg(log).query_async(&mut cli().await).await.unwrap();
        left == 100 - oldest.0
    }

    /// The server is emptied.
    async fn go_back(config: &RedisStoreConfig) {
        let names = ["values", "versions", "index", "log", "meta"];
        let names = names.map(|name| format!("{{{}}}:{name}", config.namespace));
        redis::cmd("DEL").arg(&names[..]).exec_async(&mut cli().await).await.unwrap();
    }
}

server_store_suite!(Redis);
log_on_server_suite!(Redis);

/// Stores that the conformance suite opens, in namespaces of their own.
fn harness(over_tls: bool, crash: Option<String>) -> OnServer<Redis> {
    let run = unused_name();
    let config = move |name: &str| {
        let config = if over_tls { encrypted() } else { fresh() };
        RedisStoreConfig { namespace: format!("{run}/{name}"), ..config }
    };
    OnServer { config: Box::new(config), crash }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_store_conforms() {
    let _turn = turn(false).await;
    run_all(&harness(false, None)).await;
}

/// `kill -9` of a server that syncs before it answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing() {
    let _turn = turn(true).await;
    for encrypted in [false, true] {
        let harness = harness(encrypted, Some(variable("ORCH_TEST_REDIS_CRASH")));
        orch_core::testkit::store::a_disturbance_loses_nothing(&harness).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_is_set_up_for_is_declared() {
    let _turn = turn(true).await;
    let mut cli = cli().await;
    let set = async |cli: &mut redis::aio::MultiplexedConnection, name: &str, value: &str| {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(cli).await.unwrap();
    };
    for (append, sync, declared) in [
        ("yes", "always", Durability::Sync),
        ("yes", "everysec", Durability::Group),
        ("yes", "no", Durability::Memory),
        ("no", "always", Durability::Memory),
    ] {
        set(&mut cli, "appendonly", append).await;
        set(&mut cli, "appendfsync", sync).await;
        let found = open(&fresh()).await.capabilities().durability;
        assert_eq!(found, declared, "appendonly {append}, appendfsync {sync}");
    }
    set(&mut cli, "appendonly", "yes").await;
    set(&mut cli, "appendfsync", "always").await;
    set(&mut cli, "maxmemory-policy", "allkeys-lru").await;
    let refused = RedisStore::open(fresh()).await;
    set(&mut cli, "maxmemory-policy", "noeviction").await;
    let text = full(&refused.unwrap_err());
    assert!(text.contains("throws records away") && text.contains("noeviction"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_can_read_everything() {
    let _turn = turn(false).await;
    let config = fresh();
    let store = open(&config).await;
    store.commit(put("tasks/1", "{\"v\":1}")).await.unwrap();
    let values: Vec<String> = redis::cmd("HGETALL")
        .arg(format!("{{{}}}:values", config.namespace))
        .query_async(&mut cli().await)
        .await
        .unwrap();
    assert_eq!(values, ["tasks/1", "{\"v\":1}"]);
}

#[tokio::test]
async fn who_cannot_log_in_hears_why_and_no_password_is_shown() {
    let _turn = turn(false).await;
    let address = server().rsplit_once('@').unwrap().1.to_owned();
    let config = RedisStoreConfig::from_url(&format!("redis://:hidden@{address}")).unwrap();
    let config = RedisStoreConfig { retry_deadline: Duration::from_millis(100), ..config };
    assert!(!format!("{config:?}").contains("hidden"), "{config:?}");
    let error = RedisStore::open(config).await.unwrap_err();
    let text = full(&error);
    assert!(text.to_lowercase().contains("password") && !text.contains("hidden"), "{text}");
    assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
}

#[tokio::test]
async fn the_url_opens_it_or_says_what_is_wrong() {
    let _turn = turn(false).await;
    let url = format!("{}?namespace={}", server(), unused_name());
    assert_eq!(orch_store::connect(&url).await.unwrap().capabilities().name, "redis");
    let braces = orch_store::connect(&format!("{}?namespace=%7Ba%7D", server())).await.unwrap_err();
    assert!(full(&braces).contains("without braces"), "{}", full(&braces));
    for (url, says) in [
        ("redis://:hidden@host:port", "cannot be understood"),
        ("rediss://:hidden@host#insecure", "%23"),
        ("redis://:hidden@host?ca=file", "for rediss:// URLs"),
        ("rediss://:hidden@host?cert=file", "belong together"),
        ("rediss://:hidden@host?ca=%FF", "not UTF-8"),
    ] {
        let text = full(&RedisStoreConfig::from_url(url).unwrap_err());
        assert!(text.contains(says) && !text.contains("hidden"), "{url}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_say_who_is_who() {
    let _turn = turn(false).await;
    let (files, others) = (variable("ORCH_TEST_REDIS_CERTIFICATES"), variable("ORCH_TEST_ETCD_CERTIFICATES"));
    let at = |parameters: &str| {
        let url = format!("{}?namespace={}&{parameters}", variable("ORCH_TEST_REDIS_TLS"), unused_name());
        let config = RedisStoreConfig::from_url(&url).unwrap();
        RedisStore::open(RedisStoreConfig { poll_interval: Duration::from_secs(600), ..config })
    };
    let identity = format!("cert={files}/client.pem&key={files}/client.key");
    let store = at(&format!("ca={files}/ca.pem&{identity}")).await.unwrap();
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    let revision = store.commit(put("a", "1")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().position, revision, "notifications arrive encrypted too");

    for (parameters, says) in [
        (identity.clone(), "the other's certificate"),
        (format!("ca={others}/ca.pem&{identity}"), "the other's certificate"),
        (format!("ca={files}/ca.pem"), "the other's certificate"),
        (format!("ca={files}/nothing&{identity}"), "nothing cannot be read"),
        (format!("ca={files}/ca.key&{identity}"), "ca.key cannot be read"),
        (format!("ca={files}/ca.pem&cert={files}/client.pem&key={files}/ca.pem"), "ca.pem cannot be read"),
        (format!("ca={files}/ca.pem&cert={files}/client.pem&key={files}/server.key"), "cannot be used"),
    ] {
        let error = at(&parameters).await.unwrap_err();
        let text = full(&error);
        assert!(text.contains(says) && !error.is_retryable(), "{parameters}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_store_conforms() {
    let _turn = turn(false).await;
    run_all(&harness(true, None)).await;
}
