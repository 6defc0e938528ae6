//! Promises of every style, with containers.

use manager_worker::deployment::ManagerAndWorkers;
use orch_kit::{deployment::Ground, testing::fixture};

orch_kit::acceptance!(ManagerAndWorkers::start(
    env!("CARGO_BIN_EXE_orch").into(),
    Ground::Docker(fixture("ORCH_TEST_IMAGE")),
    2,
    &["--docker-host", &fixture("ORCH_TEST_DOCKER_HOST")]
));
