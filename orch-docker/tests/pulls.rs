//! Pulls from registries on loopback: open, with a password, down, and without the image.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use bollard::query_parameters::RemoveImageOptionsBuilder;
use futures_util::future::join_all;
use orch_core::{
    model::{PullPolicy, TaskSpec, Workload},
    runtime::{Progress, RuntimeError, RuntimeErrorKind, Secret, Work},
};

mod common;

/// Work whose image is `name` in a registry.
fn work(registry: &str, name: &str, policy: PullPolicy) -> Work {
    let mut spec = TaskSpec::image("pull", format!("{registry}/{name}"));
    if let Workload::Image { pull, .. } = &mut spec.workload {
        *pull = policy;
    }
    common::work(spec)
}

fn with_login(mut work: Work, login: &str) -> Work {
    let mut spec = TaskSpec::clone(&work.spec);
    if let Workload::Image { registry_credentials, .. } = &mut spec.workload {
        *registry_credentials = Some("registry".into());
    }
    work.spec = spec.into();
    work.secrets.insert("registry".into(), Secret::new(login));
    work
}

fn login() -> String {
    let file = common::variable("ORCH_TEST_REGISTRY_LOGIN_FILE");
    std::fs::read_to_string(file).unwrap()
}

async fn prepare(work: &Work) -> Result<(), RuntimeError> {
    common::runtime(&common::config()).await.prepare(work, &Progress::none()).await
}

async fn refused(work: &Work) -> RuntimeError {
    prepare(work).await.expect_err("the pull must fail")
}

async fn forget(reference: &str) {
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    // It does not exist in the first place, or another test has removed it.
    drop(common::docker().remove_image(reference, Some(options), None).await);
}

#[tokio::test]
async fn an_image_is_pulled_with_progress_and_runs() {
    let registry = common::variable("ORCH_TEST_REGISTRY");
    // No other image shares its layer, so that there is something to pull.
    let reference = format!("{registry}/{}", common::variable("ORCH_TEST_IMAGE_TO_PULL"));
    forget(&reference).await;
    let mut spec = common::sh("exit 5");
    if let Workload::Image { image, pull, .. } = &mut spec.workload {
        image.clone_from(&reference);
        *pull = PullPolicy::Always;
    }
    let work = common::work(spec);
    let runtime = common::runtime(&common::config()).await;
    let said = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::new({
        let said = Arc::clone(&said);
        move |message| said.lock().unwrap().push(message)
    });
    runtime.prepare(&work, &progress).await.unwrap();
    runtime.start(&work).await.unwrap();
    assert_eq!(runtime.wait(work.attempt).await.unwrap().code, 5);
    runtime.remove(work.attempt).await.unwrap();
    forget(&reference).await;
    let said = said.lock().unwrap().clone();
    assert_eq!(said.first(), Some(&format!("pulling {reference}")));
    assert!(said.iter().any(|message| message.contains("of 1 layers done")), "{said:?}");
    assert_eq!(said.last(), Some(&format!("pulled {reference}")));
}

#[tokio::test]
async fn pulls_of_one_image_are_shared() {
    let closed = common::variable("ORCH_TEST_REGISTRY_AUTH");
    let work = with_login(work(&closed, &common::image(), PullPolicy::IfMissing), &login());
    forget(&format!("{closed}/{}", common::image())).await;
    let runtime = common::runtime(&common::config()).await;
    let pulls = Arc::new(Mutex::new(0));
    let progress = Progress::new({
        let pulls = Arc::clone(&pulls);
        move |message: String| *pulls.lock().unwrap() += usize::from(message.starts_with("pulling "))
    });
    let all = join_all((0..5).map(|_| runtime.prepare(&work, &progress))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(*pulls.lock().unwrap(), 1);

    // With the image present wrong credentials do not matter, and neither does a policy of never.
    prepare(&with_login(work.clone(), "orch:wrong")).await.unwrap();

    // A pull that is required is refused, whoever had the image before.
    let always = self::work(&closed, &common::image(), PullPolicy::Always);
    for work in [always.clone(), with_login(always.clone(), "orch:wrong")] {
        let error = refused(&work).await;
        assert_eq!(error.kind, RuntimeErrorKind::CredentialsRefused, "{error}");
        assert!(!error.message.contains("wrong"), "{error}");
    }
    let json = login();
    let (user, password) = json.split_once(':').unwrap();
    let json = serde_json::json!({ "username": user, "password": password }).to_string();
    prepare(&with_login(always, &json)).await.unwrap();
    forget(&format!("{closed}/{}", common::image())).await;
}

#[tokio::test]
async fn a_missing_image_is_told_from_a_missing_registry() {
    let open = common::variable("ORCH_TEST_REGISTRY");
    for name in ["orch-test:no-such-tag", "no/such-image:1"] {
        let error = refused(&work(&open, name, PullPolicy::IfMissing)).await;
        assert_eq!(error.kind, RuntimeErrorKind::ImageNotFound, "{error}");
    }
    // A port that was free a moment ago.
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = refused(&work(&down.to_string(), "orch-test:busybox", PullPolicy::IfMissing)).await;
    assert_eq!(error.kind, RuntimeErrorKind::RegistryUnavailable, "{error}");
    assert!(error.message.contains("connection refused"), "{error}");
}

#[tokio::test]
async fn a_registry_that_never_answers_does_not_hang_the_pull() {
    // It accepts connections and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = common::config();
    config.pull_stall_timeout = std::time::Duration::from_millis(500);
    let runtime = common::runtime(&config).await;
    let work = work(&silent.local_addr().unwrap().to_string(), "orch-test:busybox", PullPolicy::IfMissing);
    let error = runtime.prepare(&work, &Progress::none()).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::RegistryUnavailable, "{error}");
}

#[tokio::test]
async fn a_login_that_the_agent_lacks_is_an_error() {
    let open = common::variable("ORCH_TEST_REGISTRY");
    let mut work = with_login(work(&open, "orch-test:busybox", PullPolicy::Always), "user:password");
    work.secrets.clear();
    let error = refused(&work).await;
    assert_eq!(error.kind, RuntimeErrorKind::InvalidSpec);
    assert!(error.message.contains("\"registry\""), "{error}");
}
