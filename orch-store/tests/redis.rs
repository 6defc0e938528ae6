//! The Redis store against a real server: the conformance suite, also while the server is killed, several
//! processes, what it declares of its durability, and what people see.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all};
use orch_core::{
    store::{CommitError, Durability, Guard, Revision, StateStore, StoreError},
    testkit::store::{StoreHarness, run_all},
};
use orch_store::redis::{RedisStore, RedisStoreConfig};

use common::{full, key, put, unused_name, variable};

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

struct Redis {
    run: String,
    crash: Option<String>,
    encrypted: bool,
}

/// A store over encrypted connections.
fn encrypted() -> RedisStoreConfig {
    let files = variable("ORCH_TEST_REDIS_CERTIFICATES");
    let files = format!("ca={files}/ca.pem&cert={files}/client.pem&key={files}/client.key");
    RedisStoreConfig::from_url(&format!("{}?{files}", variable("ORCH_TEST_REDIS_TLS"))).unwrap()
}

#[async_trait]
impl StoreHarness for Redis {
    async fn open(&self, name: &str) -> Arc<dyn StateStore> {
        let config = if self.encrypted { encrypted() } else { fresh() };
        open(&RedisStoreConfig { namespace: format!("{}/{name}", self.run), ..config }).await
    }

    fn reopens(&self) -> bool {
        true
    }

    fn disturbs(&self) -> bool {
        self.crash.is_some()
    }

    async fn disturb(&self) {
        common::run(self.crash.as_ref().unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_store_conforms() {
    let _turn = turn(false).await;
    run_all(&Redis { run: unused_name(), crash: None, encrypted: false }).await;
}

/// `kill -9` of a server that syncs before it answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing() {
    let _turn = turn(true).await;
    for encrypted in [false, true] {
        let crash = Some(variable("ORCH_TEST_REDIS_CRASH"));
        let harness = Redis { run: unused_name(), crash, encrypted };
        orch_core::testkit::store::a_disturbance_loses_nothing(&harness).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_one_order_and_hear_each_other() {
    let _turn = turn(false).await;
    let config = RedisStoreConfig { poll_interval: Duration::from_secs(600), ..fresh() };
    let stores = join_all((0..3).map(|_| open(&config))).await;
    assert!(stores[0].capabilities().shared);
    let mut watches = Vec::new();
    for store in &stores {
        watches.push(store.watch("", Revision::ZERO).await.unwrap());
    }
    let writers = stores.iter().enumerate().flat_map(|(number, store)| {
        (0..50).map(move |n| async move { store.commit(put(&format!("k/{number}/{n}"), "v")).await.unwrap() })
    });
    let mut revisions = join_all(writers).await;
    revisions.sort();
    assert_eq!(revisions, (1..=150).map(Revision).collect::<Vec<_>>(), "each revision is given once");
    for watch in watches {
        let seen: Vec<_> = watch.take(150).map(|batch| batch.unwrap().revision).collect().await;
        assert_eq!(seen, revisions, "in order and without a gap");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_emptied_is_noticed() {
    let _turn = turn(false).await;
    let config = fresh();
    let store = open(&config).await;
    let watch = store.watch("", Revision::ZERO).await.unwrap();
    store.commit(put("a", "1")).await.unwrap();
    drop(store.watch("", Revision::ZERO).await.unwrap());
    let names = ["values", "versions", "index", "log", "meta"];
    let names = names.map(|name| format!("{{{}}}:{name}", config.namespace));
    redis::cmd("DEL").arg(&names[..]).exec_async(&mut cli().await).await.unwrap();
    let last = watch.collect::<Vec<_>>().await.pop();
    assert!(matches!(&last, Some(Err(StoreError::Corrupt(text))) if text.contains("older copy")), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_trimmed() {
    let _turn = turn(false).await;
    let config = RedisStoreConfig { history_revisions: NonZeroU64::new(40).unwrap(), ..fresh() };
    let store = open(&config).await;
    for n in 0..100 {
        store.commit(put("a", &n.to_string())).await.unwrap();
    }
    let Some(StoreError::Compacted { oldest }) = store.watch("", Revision::ZERO).await.err() else {
        panic!("the log must have been trimmed")
    };
    assert!((50..=60).contains(&oldest.0), "{oldest}");
    let log = format!("{{{}}}:log", config.namespace);
    let left: u64 = redis::cmd("XLEN").arg(log).query_async(&mut cli().await).await.unwrap();
    assert_eq!(left, 100 - oldest.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_claims_at_once_one_wins_each() {
    let _turn = turn(false).await;
    let store = open(&fresh()).await;
    let claims = (0..400).map(|n| {
        let claim = put(&format!("claims/{}", n / 4), &n.to_string());
        let claim = claim.guarded(Guard::Absent(key(&format!("claims/{}", n / 4))));
        let store = Arc::clone(&store);
        async move { store.commit(claim).await }
    });
    let outcomes = join_all(claims).await;
    for (n, four) in outcomes.chunks(4).enumerate() {
        assert_eq!(four.iter().filter(|outcome| outcome.is_ok()).count(), 1, "claim {n}: {four:?}");
        let lost = four.iter().filter(|outcome| matches!(outcome, Err(CommitError::Conflict { .. })));
        assert_eq!(lost.count(), 3, "claim {n}: {four:?}");
    }
    assert_eq!(store.revision().await.unwrap(), Revision(100), "a lost claim takes no revision");
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
async fn a_server_that_is_not_there_is_waited_for_within_bounds() {
    let config = RedisStoreConfig {
        retry_deadline: Duration::from_millis(300),
        ..RedisStoreConfig::from_url("redis://:hidden@127.0.0.1:1").unwrap()
    };
    let error = RedisStore::open(config).await.unwrap_err();
    let text = full(&error);
    assert!(error.is_retryable() && text.contains("within 300ms") && !text.contains("hidden"), "{text}");
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
    let mut watch = store.watch("", Revision::ZERO).await.unwrap();
    let revision = store.commit(put("a", "1")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, revision, "news are heard encrypted too");

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
    run_all(&Redis { run: unused_name(), crash: None, encrypted: true }).await;
}
