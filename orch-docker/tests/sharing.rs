//! Two agents with one identity on one engine.

use orch_core::runtime::RuntimeErrorKind;

mod common;

#[tokio::test]
async fn an_agent_with_the_mark_of_another_waits_until_that_has_ended() {
    let config = common::config();
    let first = common::runtime(&config).await;
    let work = common::work(common::sh("exec sleep 1000"));
    common::start(&*first, &work).await.unwrap();

    // Like a copy of the data directory, with separate directories for everything.
    let mut copy = config.clone();
    copy.state_dir = config.state_dir.join("copy");
    copy.secrets_dir = config.secrets_dir.join("copy");
    let second = common::runtime(&copy).await;
    for error in [
        second.list().await.unwrap_err(),
        second.adopt(work.attempt).await.unwrap_err(),
        second.start(&work).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, RuntimeErrorKind::Unavailable, "{error}");
        assert!(error.message.contains("another agent on this machine"), "{error}");
    }

    let mut other = config;
    other.owner += "-other";
    assert_eq!(common::runtime(&other).await.list().await.unwrap(), []);
    assert_eq!(first.list().await.unwrap().len(), 1);
    drop(first);
    assert_eq!(second.list().await.unwrap().len(), 1);
    second.remove(work.attempt).await.unwrap();
}
