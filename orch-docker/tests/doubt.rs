//! An engine that goes away over the order to start a container.

use orch_core::{
    model::TaskSpec,
    runtime::{Runtime, RuntimeErrorKind},
};

use crate::common::stand_in::{StandIn, created};

mod common;

#[tokio::test]
async fn a_start_that_may_have_happened_is_not_repeated() {
    let work = common::work(TaskSpec::image("job", "image"));
    let container = created(&work);
    let engine = StandIn::start(move |method, path| match method {
        "POST" if path.contains("/start") => None,
        "DELETE" => Some((204, String::new())),
        "GET" if path.starts_with("/containers/") => Some((200, container.clone())),
        _ => Some((200, "{}".into())),
    });
    let runtime = engine.runtime().await;

    assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Unavailable);
    let error = runtime.start(&work).await.unwrap_err();
    assert_eq!(error.kind, RuntimeErrorKind::NotFound, "{error}");
    assert!(error.message.contains("it may have run") && error.kind.is_retryable(), "{error}");
    let requests = engine.requests();
    let count = |word: &str| requests.iter().filter(|request| request.contains(word)).count();
    assert_eq!((count("/start"), count("DELETE")), (1, 1), "one start, and nothing is left: {requests:?}");

    // Once it is removed there is no doubt left.
    assert_eq!(runtime.start(&work).await.unwrap_err().kind, RuntimeErrorKind::Unavailable);
}
