//! The etcd store against a real cluster of three: the conformance suite, also while members are killed,
//! several processes, what people see with `etcdctl`, and neighbours in the same cluster.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod common;

use std::{fs::File, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, future::join_all};
use orch_core::{
    store::{Guard, Position, StateStore, StoreError},
    testkit::store::run_all,
};
use orch_store::etcd::{EtcdLogin, EtcdStore, EtcdStoreConfig};

use common::{
    full, key, put,
    server_store::{OnServer, ServerBackend, server_store_suite},
    unused_name, variable,
};

fn cluster() -> EtcdStoreConfig {
    let members = variable("ORCH_TEST_ETCD");
    let config = EtcdStoreConfig::new(members.split(','));
    EtcdStoreConfig { namespace: unused_name(), compacts_cluster: false, ..config }
}

async fn open(config: &EtcdStoreConfig) -> Arc<EtcdStore> {
    Arc::new(EtcdStore::open(config.clone()).await.unwrap())
}

async fn turn(alone: bool) -> File {
    common::turn(&variable("ORCH_TEST_ETCD"), alone).await
}

struct Etcd;

#[async_trait]
impl ServerBackend for Etcd {
    type Config = EtcdStoreConfig;

    const DENSE: bool = false;
    const COMMITS: usize = 30;

    fn fresh() -> EtcdStoreConfig {
        cluster()
    }

    fn nowhere() -> EtcdStoreConfig {
        let retry_deadline = Duration::from_millis(300);
        EtcdStoreConfig { retry_deadline, ..EtcdStoreConfig::new(["127.0.0.1:1"]) }
    }

    async fn open(config: &EtcdStoreConfig) -> Result<Arc<dyn StateStore>, StoreError> {
        Ok(Arc::new(EtcdStore::open(config.clone()).await?))
    }

    async fn turn(alone: bool) -> Option<File> {
        Some(turn(alone).await)
    }
}

server_store_suite!(Etcd);

/// Stores that the conformance suite opens, in namespaces below `run`.
fn harness(run: String, crash: Option<String>) -> OnServer<Etcd> {
    let config = move |name: &str| {
        let namespace = format!("{run}/{name}");
        EtcdStoreConfig { namespace, compacts_cluster: true, ..cluster() }
    };
    OnServer { config: Box::new(config), crash }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_store_conforms() {
    let _turn = turn(true).await;
    run_all(&harness(unused_name(), None)).await;
}

/// `kill -9` of a member, each of the three in its turn.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_member_loses_nothing() {
    let _turn = turn(true).await;
    let run = unused_name();
    for round in 0..3 {
        let harness = harness(format!("{run}/{round}"), Some(variable("ORCH_TEST_ETCD_CRASH")));
        orch_core::testkit::store::a_disturbance_loses_nothing(&harness).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_of_a_transaction_fits_and_more_is_refused_before() {
    let _turn = turn(false).await;
    let store = open(&cluster()).await;
    let limits = store.capabilities();
    let full_txn = (0..limits.max_txn_writes).map(|n| {
        orch_core::store::Write::put(
            key(&format!("{n}/{}", ["x"; 3].map(|x| x.repeat(166)).join("/"))),
            vec![7; 10_000],
        )
    });
    let mut txn = orch_core::store::Txn::of(full_txn.collect());
    txn.guards = (0..limits.max_txn_writes)
        .map(|n| Guard::Absent(key(&format!("{n}/{}", ["x"; 3].map(|x| x.repeat(166)).join("/")))))
        .collect();
    store.commit(txn.clone()).await.unwrap();
    txn.writes.iter_mut().for_each(|write| write.value = Some(vec![7; 20_000].into()));
    let error = store.commit(txn).await.unwrap_err().to_string();
    assert!(error.contains("in bytes") && error.contains("at most"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_can_read_everything_with_etcdctl() {
    let _turn = turn(false).await;
    let config = cluster();
    let store = open(&config).await;
    store.commit(put("tasks/1", "{\"v\":1}")).await.unwrap();
    let members = config.members.join(",");
    let output = tokio::process::Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", &members, "get", "--prefix", &format!("{}/records/", config.namespace)])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("{}/records/tasks/1\n{{\"v\":1}}\n", config.namespace));
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_in_the_cluster_do_not_see_each_other() {
    let _turn = turn(false).await;
    let (one, two) = (open(&cluster()).await, open(&cluster()).await);
    one.commit(put("a", "1")).await.unwrap();
    assert_eq!(two.head().await.unwrap(), Position::ZERO);
    assert!(two.scan("", None, 10).await.unwrap().entries.is_empty());
    let mut watch = two.watch("", Position::ZERO).await.unwrap();
    one.commit(put("a", "2")).await.unwrap();
    let mine = two.commit(put("b", "1")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().position, mine);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_store_compacts_is_compacted_for_no_neighbour() {
    let _turn = turn(false).await;
    let config = cluster();
    let (one, two, other) = (open(&config).await, open(&config).await, open(&cluster()).await);
    let mut revisions = Vec::new();
    for n in 0..10 {
        revisions.push(one.commit(put("a", &n.to_string())).await.unwrap());
        other.commit(put("a", &n.to_string())).await.unwrap();
    }
    one.compact(revisions[4].revision).await.unwrap();
    let early = two.watch("", revisions[3]).await.err();
    assert!(matches!(early, Some(StoreError::Compacted { oldest }) if oldest == revisions[4]), "{early:?}");
    assert_eq!(two.watch("", revisions[4]).await.unwrap().take(5).count().await, 5);
    assert_eq!(other.watch("", Position::ZERO).await.unwrap().take(10).count().await, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_there_is_passed_over() {
    let _turn = turn(false).await;
    let mut config = cluster();
    config.members.insert(0, "127.0.0.1:1".into());
    let store = open(&config).await;
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    let revision = store.commit(put("a", "1")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().position, revision);
}

#[tokio::test]
async fn the_url_opens_it_or_says_what_is_wrong() {
    let _turn = turn(false).await;
    let url = format!("etcd://{}/{}", variable("ORCH_TEST_ETCD"), unused_name());
    assert_eq!(orch_store::connect(&url).await.unwrap().capabilities().name, "etcd");
    let named = EtcdStoreConfig::from_url("etcd://one,[::1],two:99/my%20space").unwrap();
    assert_eq!(named.members, ["one:2379", "[::1]:2379", "two:99"]);
    assert_eq!(named.namespace, "my space");
    for with_password in ["etcd://me:a%40b%3A@localhost,127.0.0.2,[::1]:99", "etcds://me:a%40b%3A@host"] {
        let config = EtcdStoreConfig::from_url(with_password).unwrap();
        assert_eq!(config.login, Some(EtcdLogin { user: "me".into(), password: "a@b:".into() }));
        assert!(!format!("{config:?}").contains("a@b"), "{config:?}");
    }
    for (url, says) in [
        ("etcd://", "names no member"),
        ("etcd://hidden@127.0.0.1", "password is missing"),
        ("etcd://user:hidden@127.0.0.1,host", "for anybody to read"),
        ("etcd://user:%FF@127.0.0.1", "not UTF-8"),
        ("http://x", "begins with"),
        ("etcd://x?ca=y", "only with"),
        ("etcds://x?cert=y", "belong together"),
    ] {
        let text = full(&EtcdStoreConfig::from_url(url).unwrap_err());
        assert!(text.contains(says) && !text.contains("hidden"), "{text}");
    }
}

#[tokio::test]
async fn certificates_say_who_is_who() {
    let files = variable("ORCH_TEST_ETCD_CERTIFICATES");
    let at = |parameters: &str| {
        let url = format!("etcds://{}/{}?{parameters}", variable("ORCH_TEST_ETCD_TLS"), unused_name());
        let config = EtcdStoreConfig::from_url(&url).unwrap();
        EtcdStore::open(EtcdStoreConfig { retry_deadline: Duration::from_millis(200), ..config })
    };
    let identity = format!("cert={files}/client.pem&key={files}/client.key");
    let store = at(&format!("ca={files}/ca.pem&{identity}")).await.unwrap();
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    let revision = store.commit(put("a", "1")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().position, revision);

    for (parameters, says) in [
        (identity.clone(), "within"),
        (format!("ca={files}/ca.pem"), "within"),
        (format!("ca={files}/nothing&{identity}"), "nothing cannot be read"),
        (format!("ca={files}/ca.pem&cert={files}/client.pem&key={files}/ca.pem"), "PEM form"),
    ] {
        let text = full(&at(&parameters).await.unwrap_err());
        assert!(text.contains(says), "{parameters}: {text}");
    }
}

fn closed() -> EtcdStoreConfig {
    let config = EtcdStoreConfig::from_url(&variable("ORCH_TEST_ETCD_CLOSED")).unwrap();
    let retry_deadline = Duration::from_secs(3);
    EtcdStoreConfig { namespace: format!("{}/{}", config.namespace, unused_name()), retry_deadline, ..config }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_in_and_a_login_that_ended_is_made_again() {
    let store = open(&closed()).await;
    let begin = std::time::Instant::now();
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    let mut count = 0;
    // A login of this server lasts a second.
    while begin.elapsed() < Duration::from_secs(3) {
        let written = join_all((0..16).map(|n| store.commit(put("a", &n.to_string())))).await;
        count += written.into_iter().map(Result::unwrap).count();
    }
    store.scan("", None, 10).await.unwrap();
    let late = store.watch("", Position::ZERO).await.unwrap();
    assert_eq!(watch.by_ref().take(count).map(Result::unwrap).count().await, count);
    assert_eq!(late.take(count).map(Result::unwrap).count().await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_in_hears_why_and_no_password_is_shown() {
    let login = |user: &str, password: &str| Some(EtcdLogin { user: user.into(), password: password.into() });
    for (login, says) in [
        (login("orch", "hidden"), "name and password"),
        (login("nobody", "hidden"), "name and password"),
        (None, "name and password"),
    ] {
        let error = EtcdStore::open(EtcdStoreConfig { login, ..closed() }).await.unwrap_err();
        let text = full(&error);
        assert!(text.contains(says) && !error.is_retryable(), "{text}");
        assert!(!text.contains("hidden") && !format!("{error:?}").contains("hidden"), "{error:?}");
    }
    let _turn = turn(false).await;
    let open_to_all = EtcdStoreConfig { login: login("orch", "hidden"), ..cluster() };
    let text = full(&EtcdStore::open(open_to_all).await.unwrap_err());
    assert!(text.contains("authentication is not enabled") && !text.contains("hidden"), "{text}");
}

/// `etcdctl` as the user who may change rights.
async fn as_root(args: &[&str]) {
    let EtcdStoreConfig { members, login, .. } = closed();
    let user = format!("root:{}", login.unwrap().password);
    let mut command = tokio::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &members.join(","), "--user", &user]).args(args);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_a_right_hears_of_it_in_reads_commits_and_watches() {
    let (name, namespace) = (unused_name(), unused_name());
    let below = format!("{namespace}/");
    as_root(&["role", "add", &name]).await;
    as_root(&["role", "grant-permission", &name, "--prefix=true", "readwrite", &below]).await;
    as_root(&["user", "add", &format!("{name}:hidden")]).await;
    as_root(&["user", "grant-role", &name, &name]).await;
    let login = Some(EtcdLogin { user: name.clone(), password: "hidden".into() });
    let store = open(&EtcdStoreConfig { namespace, login, ..closed() }).await;
    store.commit(put("a", "1")).await.unwrap();
    let mut watch = store.watch("", Position::ZERO).await.unwrap();
    watch.next().await.unwrap().unwrap();
    let later = store.watch("", Position::ZERO).await.unwrap();

    as_root(&["role", "revoke-permission", &name, "--prefix=true", &below]).await;
    let refused = store.commit(put("a", "2")).await.unwrap_err();
    assert!(full(&refused).contains("permission denied"), "{}", full(&refused));
    let text = full(&store.get(&key("a")).await.unwrap_err());
    assert!(text.contains("permission denied"), "{text}");
    let ended = later.collect::<Vec<_>>().await.pop().unwrap().unwrap_err();
    assert!(full(&ended).contains("permission denied"), "{}", full(&ended));

    as_root(&["role", "grant-permission", &name, "--prefix=true", "readwrite", &below]).await;
    let revision = store.commit(put("a", "3")).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().position, revision, "a watch that had begun goes on");
}
