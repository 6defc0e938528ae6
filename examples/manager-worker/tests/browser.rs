//! The page on the cluster, in a real browser.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use manager_worker::deployment::ManagerAndWorkers;
use orch_core::{
    model::{CommandId, NodeId, Scheduling, TaskSpec},
    state::TaskStatus,
};
use orch_kit::{
    deployment::{Deployment, Ground},
    testing::Browser,
};

async fn cluster() -> ManagerAndWorkers {
    let ground = Ground::Process("a test".into());
    ManagerAndWorkers::start(env!("CARGO_BIN_EXE_orch").into(), ground, 2, &[]).await.unwrap()
}

async fn sign_in(browser: &Browser, token: &str) {
    browser.type_into("#token", token).await;
    browser.click("#enter button").await;
}

/// Text of the first row of the table that has these words.
fn row(table: &str, words: &str) -> String {
    format!("[...document.querySelectorAll('#{table} tr')].find(row => row.innerText.includes('{words}'))")
}

#[test]
fn the_page_shows_the_cluster_to_who_has_the_token_and_follows_it() {
    orch_core::block_on(async {
        let cluster = cluster().await;
        let api = cluster.api();
        let browser = Browser::open(&format!("{}/ui", cluster.url()), false).await;

        sign_in(&browser, "not-the-token").await;
        browser.until("document.querySelector('#refused').innerText.includes('token')").await;
        browser.until("document.querySelector('#cluster').hidden").await;
        sign_in(&browser, &cluster.admin_token().unwrap()).await;
        browser.until(&row("nodes", "worker-1")).await;
        browser.until(&row("tasks", "No task is like that")).await;

        // Changes are shown without a click; what others wrote is text.
        let name = "<img src=x onerror=document.title=1>";
        let spec = TaskSpec::program(name, "/bin/sh").args(["-c", "echo '<b>out</b>'; sleep 600"]);
        let task = api.submit_one(spec).await.unwrap().view.record.id;
        let row_of_it = row("tasks", "onerror");
        browser.until(&format!("({row_of_it})?.innerText.includes('running')")).await;
        browser.click("#tasks button").await;
        browser.until("document.querySelector('#output').textContent === '<b>out</b>\\n'").await;
        assert_eq!(browser.value("document.title").await, "orch");
        assert_eq!(browser.value("document.querySelectorAll('img, #output *').length").await, 0);

        // It is still there after the page was loaded again, and after the manager was started again.
        browser.reload().await;
        browser.until(&row_of_it).await;
        let mut cluster = cluster;
        cluster.kill("manager").await.unwrap();
        cluster.heal("manager").await.unwrap();
        browser.click("#tasks button").await;
        browser.until("!document.querySelector('#cancel').hidden").await;
        browser.click("#cancel").await;
        browser.confirm().await;
        let done = tokio::time::timeout(Duration::from_secs(20), api.wait(task)).await.unwrap().unwrap();
        assert_eq!(done.status, TaskStatus::Cancelled);
        browser.until(&format!("({row_of_it})?.innerText.includes('cancelled')")).await;

        browser.click("#nodes button").await;
        browser.until(&format!("({})?.innerText.includes('cordoned')", row("nodes", "worker-1"))).await;
        let node = api.node(&NodeId::new("worker-1").unwrap()).await.unwrap();
        assert_eq!(node.record.scheduling, Scheduling::Cordoned);

        browser.click("#leave").await;
        browser.reload().await;
        browser.until("!document.querySelector('#enter').hidden").await;
        assert_eq!(browser.value("document.querySelectorAll('#nodes tr').length").await, 0);
        Box::new(cluster).stop().await;
    });
}

#[test]
fn the_output_is_that_of_the_task_that_is_open_also_after_a_restart() {
    orch_core::block_on(async {
        let mut cluster = cluster().await;
        let api = cluster.api();
        for name in ["one", "two"] {
            let script = format!("while :; do echo {name}; sleep 0.1; done");
            let spec = TaskSpec::program(name, "/bin/sh").args(["-c", &script]);
            api.submit_one(spec).await.unwrap();
        }
        let browser = Browser::open(&format!("{}/ui", cluster.url()), false).await;
        sign_in(&browser, &cluster.admin_token().unwrap()).await;
        browser.until(&format!("({}) && ({})", row("tasks", "one"), row("tasks", "two"))).await;
        // Quicker than any answer comes, and one of them twice.
        let button = |name: &str| format!("{}.querySelector('button').click()", row("tasks", name));
        browser.value(&format!("[{}, {}, {}]", button("one"), button("two"), button("two"))).await;
        let lines = "document.querySelector('#output').textContent.split('\\n').filter(Boolean)";
        browser.until(&format!("{lines}.length > 5 && {lines}.every(line => line === 'two')")).await;
        assert_eq!(browser.value("document.querySelector('#task-head').textContent").await, "two");

        // The same lines are not shown twice when the connection was lost.
        cluster.kill("manager").await.unwrap();
        cluster.heal("manager").await.unwrap();
        let seen = browser.value(&format!("{lines}.length")).await.as_u64().unwrap();
        browser
            .until(&format!("{lines}.length > {} && {lines}.every(line => line === 'two')", seen + 5))
            .await;

        // Who forgets the token leaves nothing of the cluster in the page, and nothing comes after it.
        browser.click("#leave").await;
        browser.type_into("#token", "typed afterwards").await;
        // Something happens that the page would have shown.
        let last = api.submit_one(TaskSpec::program("last", "true")).await.unwrap();
        api.wait(last.view.record.id).await.unwrap();
        let rest = "document.querySelectorAll('#nodes tr, #tasks tr, #facts dd').length + document.querySelector('#output').textContent.length";
        assert_eq!(browser.value(rest).await, 0);
        assert_eq!(browser.value("document.querySelector('#token').value").await, "typed afterwards");
        Box::new(cluster).stop().await;
    });
}

#[test]
fn the_list_is_paged_and_filtered_and_its_colours_follow_the_system() {
    orch_core::block_on(async {
        let cluster = cluster().await;
        let api = cluster.api();
        // More than a page, of which none can run; large enough that an answer does not take them all.
        let filler = |number| TaskSpec::program(format!("filler-{number}"), "true").cpu_millis(64_000);
        let large = |spec: TaskSpec| spec.args(["x".repeat(60_000)]);
        for tens in 0..11 {
            let tasks = (0..10).map(|number| large(filler(tens * 10 + number)).into()).collect();
            api.submit(CommandId::generate(), tasks).await.unwrap();
        }
        for name in ["one", "two"] {
            let task = api.submit_one(TaskSpec::program(name, "true")).await.unwrap();
            api.wait(task.view.record.id).await.unwrap();
        }
        let mut grounds = Vec::new();
        for dark in [false, true] {
            let browser = Browser::open(&format!("{}/ui", cluster.url()), dark).await;
            sign_in(&browser, &cluster.admin_token().unwrap()).await;
            browser.until(&row("tasks", "two")).await;
            browser.until("document.querySelector('#total').textContent === '100 of 112'").await;
            browser.click("#more").await;
            browser.until("document.querySelectorAll('#tasks tr').length === 112").await;
            browser.until("document.querySelector('#more').hidden").await;
            browser.type_into("#name", "one").await;
            browser.until(&format!("({}) && !({})", row("tasks", "one"), row("tasks", "two"))).await;
            browser.click("#status option[value=failed]").await;
            browser.until(&row("tasks", "No task is like that")).await;
            grounds.push(browser.value("getComputedStyle(document.body).backgroundColor").await);
        }
        assert_ne!(grounds[0], grounds[1]);
        Box::new(cluster).stop().await;
    });
}
