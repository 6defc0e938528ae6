//! Promises of every style, on one manager with two workers.

use manager_worker::deployment::ManagerAndWorkers;
use orch_kit::deployment::Ground;

orch_kit::acceptance!(ManagerAndWorkers::start(
    env!("CARGO_BIN_EXE_orch").into(),
    Ground::Process("a test".into()),
    2,
    &[]
));
