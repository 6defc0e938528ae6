//! The demonstration, on the fixtures' engine.

use std::process::{Command, Stdio};

use crate::site::fixture;

#[test]
fn the_demonstration_works_with_containers_and_leaves_none_behind() {
    let (host, image) = (fixture("ORCH_TEST_DOCKER_HOST"), fixture("ORCH_TEST_IMAGE"));
    let output = Command::new(env!("CARGO_BIN_EXE_orch"))
        .args(["demo", "--image", &image])
        .env("DOCKER_HOST", &host)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let trouble = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{trouble}");
    assert!(text.contains(&format!("containers of {image}")), "{text}");
    assert!(text.contains("Nothing was lost and nothing ran twice."), "{text}");
    let listed = Command::new("docker")
        .args(["ps", "--all", "--filter", "label=orch.cluster=orch", "--format", "{{.Image}}"])
        .env("DOCKER_HOST", &host)
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let images = String::from_utf8_lossy(&listed.stdout);
    assert!(images.lines().all(|of| of != image), "every container was removed: {images}");
}
