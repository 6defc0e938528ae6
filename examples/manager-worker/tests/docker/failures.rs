//! A worker or the manager is killed over containers that run.

use orch_docker::testkit::Containers;

use crate::site::Site;

#[test]
fn a_worker_that_comes_back_adopts_its_containers() {
    let mut site = Site::new(Containers::Outlive);
    site.start_worker("w1");
    let goes_on = site.submit("goes-on", "begins; echo one; passes go; echo two; exit 3", &["--cpu", "0.5"]);
    let ends = site.submit("ends", "begins; echo out; passes end; echo gone; exit 4", &["--cpu", "0.5"]);
    for task in [&goes_on, &ends] {
        site.lab.until_running(task, 1);
    }
    let (one, other) = (site.container_of(&goes_on), site.container_of(&ends));
    site.lab.kill_worker("w1");
    site.open("end");
    assert_eq!(site.docker(&["wait", &other]), "4\n");
    site.start_worker("w1");
    let done = site.wait(&ends);
    assert!(done.err.contains("exit code 4"), "it ended while no worker was there: {}", done.err);
    assert_eq!(site.container_of(&goes_on), one);
    site.open("go");
    let done = site.wait(&goes_on);
    assert!(done.err.contains("exit code 3"), "{}", done.err);
    for (task, container, output) in [(&goes_on, &one, "one\ntwo\n"), (&ends, &other, "out\ngone\n")] {
        let record = &site.lab.json(&["show", task])["record"];
        assert_eq!((site.began(task).len(), record["attempts_made"].as_u64()), (1, Some(1)));
        assert_eq!(site.lab.orch(&["logs", task]).out, output);
        site.until_event(container, "destroy");
    }
}

#[test]
fn a_container_that_became_unhealthy_while_no_worker_was_there_is_stopped() {
    let mut site = Site::new(Containers::Outlive);
    site.start_worker("w1");
    let check = serde_json::json!({
        "command": ["sh", "-c", "if [ -e /lab/sick.open ]; then echo not well; exit 1; fi"],
        "interval_ms": 200, "timeout_ms": 30_000, "start_period_ms": 0, "retries": 1,
    });
    let task = site.submit_with("sick", "begins; trap 'exit 0' TERM; passes never", &[("health", check)]);
    site.lab.until_running(&task, 1);
    let container = site.container_of(&task);
    site.lab.kill_worker("w1");
    site.open("sick");
    site.until_event(&container, "health_status: unhealthy");
    site.start_worker("w1");
    let done = site.wait(&task);
    assert_eq!((done.code, site.began(&task).len()), (10, 1), "{}", done.err);
    assert!(done.err.contains("not well"), "{}", done.err);
}

#[test]
fn a_manager_that_comes_back_takes_results_in() {
    let mut site = Site::new(Containers::Outlive);
    site.start_worker("w1");
    let goes_on = site.submit("goes-on", "begins; echo one; passes go; echo two", &["--cpu", "0.5"]);
    let ends = site.submit("ends", "begins; passes end; echo out; exit 5", &["--cpu", "0.5"]);
    for task in [&goes_on, &ends] {
        site.lab.until_running(task, 1);
    }
    let ending = site.container_of(&ends);
    site.lab.kill_manager();
    site.open("end");
    assert_eq!(site.docker(&["wait", &ending]), "5\n");
    site.lab.start_manager(&[]);
    let done = site.wait(&ends);
    assert!(done.err.contains("exit code 5"), "{}", done.err);
    site.open("go");
    assert_eq!(site.wait(&goes_on).code, 0);
    for (task, output) in [(&goes_on, "one\ntwo\n"), (&ends, "out\n")] {
        assert_eq!(site.began(task).len(), 1);
        assert_eq!(site.lab.json(&["show", task])["record"]["attempts_made"], 1);
        assert_eq!(site.lab.orch(&["logs", task]).out, output);
    }
}

#[test]
fn a_worker_that_was_lost_removes_its_orphans_and_nothing_else() {
    let mut site = Site::new(Containers::Outlive);
    site.start_worker("w1");
    let moves =
        site.submit("moves", "begins; case $ORCH_ATTEMPT in *.1) passes never;; esac", &["--cpu", "0.5"]);
    site.lab.until_running(&moves, 1);
    let orphan = site.container_of(&moves);
    site.lab.kill_worker("w1");
    site.lab.until_lost("w1");
    site.start_worker("w2");
    let done = site.wait(&moves);
    assert_eq!((done.code, site.began(&moves).len()), (0, 2), "{}", done.err);

    // Containers of other people, of another cluster, and of another worker of this one.
    let stays = |labels: &[&str]| {
        let labels: Vec<String> = labels.iter().map(|label| format!("--label={label}")).collect();
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let image = crate::site::fixture("ORCH_TEST_IMAGE");
        let words = ["run", "--detach", "--network=none"];
        site.docker(&[&words, &labels[..], &[&image, "sleep", "600"]].concat()).trim().to_owned()
    };
    let (task, owner) = (format!("orch.task={moves}"), "orch.owner=somebody-else");
    let others = [
        stays(&[]),
        stays(&["orch.cluster=other", &task, "orch.attempt=1"]),
        stays(&["orch.cluster=orch", owner, &task, "orch.attempt=1"]),
    ];
    assert!(site.process_of(&orphan).exists(), "a killed worker leaves its work running");
    site.start_worker("w1");
    site.until_event(&orphan, "destroy");
    let running = site.docker(&["ps", "--quiet", "--no-trunc"]);
    assert!(others.iter().all(|other| running.contains(other)), "{others:?}: {running}");
}
