//! One URL for each backend, and words for those that lead nowhere.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::sync::Arc;

use orch_core::store::{Key, StateStore, Txn, Write};
use orch_store::{ConnectError, connect};

fn key() -> Key {
    Key::new("a").unwrap()
}

async fn complaint(url: &str) -> String {
    connect(url).await.map(|store| store.capabilities()).expect_err("there is no such store").to_string()
}

#[tokio::test]
async fn memory_is_a_store() {
    let store: Arc<dyn StateStore> = connect("memory:").await.unwrap();
    store.commit(Txn::of(vec![Write::put(key(), "1")])).await.unwrap();
    assert_eq!(store.capabilities().name, "memory");
}

#[cfg(all(feature = "redb", feature = "sqlite"))]
#[tokio::test]
async fn files_are_found_again_by_their_url() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().display();
    for (scheme, file) in [("redb", "state.redb"), ("sqlite", "orch.sqlite")] {
        let url = format!("{scheme}://{base}/a%20b%3F");
        let store = connect(&url).await.unwrap();
        assert_eq!(store.capabilities().name, scheme);
        store.commit(Txn::of(vec![Write::put(key(), "1")])).await.unwrap();
        store.close().await.unwrap();
        assert!(dir.path().join("a b?").join(file).exists());
        assert!(connect(&url).await.unwrap().get(&key()).await.unwrap().is_some());
    }
    for (rest, reason) in [
        ("", "directory is missing"),
        ("//host/path", "three slashes"),
        ("///path?readers=3", "no parameters"),
        ("///%FF", "not UTF-8"),
    ] {
        for scheme in ["redb", "sqlite"] {
            let text = complaint(&format!("{scheme}:{rest}")).await;
            assert!(text.contains(reason) && text.contains(scheme), "{text}");
        }
    }
}

#[cfg(not(feature = "sqlite"))]
#[tokio::test]
async fn a_backend_that_was_not_compiled_in_names_its_feature() {
    let error = connect("sqlite:data").await.unwrap_err();
    assert!(matches!(error, ConnectError::MissingFeature { scheme: "sqlite", feature: "sqlite" }), "{error}");
    assert!(error.to_string().contains("\"sqlite\" of orch-store"), "{error}");
}

#[tokio::test]
async fn an_unknown_scheme_is_answered_with_those_that_there_are() {
    assert!(matches!(connect("mongodb://host").await, Err(ConnectError::UnknownScheme { .. })));
    let text = complaint("mongodb://user:secret@host").await;
    assert!(text.contains("\"mongodb\"") && text.contains("sqlite") && text.contains("memory"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    assert!(complaint("data").await.contains("sqlite:///"));
    assert!(!complaint("my password: secret").await.contains("password"));
}

#[tokio::test]
async fn the_signed_store_has_no_url_and_the_answer_says_how_to_open_it() {
    for url in ["crdt:", "crdt:///var/lib/orch", "crdt://secret@host"] {
        assert!(matches!(connect(url).await, Err(ConnectError::NoUrl)));
        let text = complaint(url).await;
        assert!(
            text.contains("CrdtStore::open_on") && text.contains("key") && text.contains("transport"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
    }
}
