//! The page on the cluster, as it is sent.

use orch_kit::testing::request;

use crate::lab::Lab;

#[test]
fn the_page_holds_no_data_and_loads_nothing_from_elsewhere() {
    let lab = Lab::new();
    for path in ["/ui", "/ui/style.css", "/ui/cluster.js"] {
        let answer = request(lab.address(), "GET", path, "", "");
        assert_eq!(answer.status, 200, "{path}");
        for header in [
            "content-security-policy: default-src 'none';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(answer.head.contains(header), "{path}: {header}: {}", answer.head);
        }
        assert!(!answer.body.contains("http://") && !answer.body.contains("https://"), "{path}");
        assert!(!answer.body.contains("{server}") && !answer.body.contains("{program}"), "{path}");
    }
    assert_eq!(request(lab.address(), "GET", "/api/v1/tasks", "", "").status, 401, "data needs the token");
}
