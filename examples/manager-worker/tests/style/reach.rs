//! Ways of commands to their manager, and their words where there is none.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path};

use crate::lab::{Done, Lab};

/// An address at which nobody listens.
fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// `orch` with the admin token and these words.
fn orch(lab: &Lab, words: &[&str]) -> Done {
    let mut command = lab.bare(words);
    command.arg("--token-file").arg(lab.path("manager/admin.token"));
    Done::of(command)
}

#[test]
fn an_address_needs_no_scheme_on_this_machine_and_elsewhere_it_is_told() {
    let lab = Lab::new();
    let near = orch(&lab, &["status", "--manager", lab.address()]);
    assert_eq!(near.code, 0, "{}", near.err);
    let port = lab.address().rsplit(':').next().unwrap();
    assert_eq!(orch(&lab, &["status", "--manager", &format!("localhost:{port}")]).code, 0);
    let far = orch(&lab, &["status", "--manager", "manager.example:3000"]);
    assert_eq!(far.code, 2);
    assert!(far.err.contains("https://manager.example:3000"), "{}", far.err);
    for wrong in ["", "ftp://127.0.0.1:3000", "http://", "3000"] {
        let refused = orch(&lab, &["status", "--manager", wrong]);
        assert!(refused.code == 2 && refused.err.contains("--manager"), "{wrong:?}: {}", refused.err);
    }
    let mut worker = lab.worker_command("w1", "w1", &[]);
    worker.args(["--manager", "manager.example:3000"]);
    let mut words: Vec<_> = worker.get_args().map(ToOwned::to_owned).collect();
    words.drain(..2);
    let mut worker = std::process::Command::new(env!("CARGO_BIN_EXE_orch-worker"));
    let refused = Done::of({
        worker.args(words);
        worker
    });
    assert!(refused.err.contains("https://manager.example:3000"), "{}", refused.err);
}

#[test]
fn a_manager_that_is_not_there_is_named_with_what_to_do() {
    let lab = Lab::new();
    let url = format!("http://{}", nobody());
    let refused = orch(&lab, &["list", "--manager", &url]);
    assert_eq!(refused.code, 3);
    for words in [&*url, "orch-manager", "--manager", "ORCH_MANAGER", "refused"] {
        assert!(refused.err.contains(words), "{words}: {}", refused.err);
    }
}

#[test]
fn the_wrong_scheme_is_told() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let encrypted = Lab::with(&["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]);
    let plain = orch(&encrypted, &["list", "--manager", &format!("http://{}", encrypted.address())]);
    assert!(plain.code != 0 && plain.err.contains("https://"), "{}", plain.err);
    let unknown = orch(&encrypted, &["list", "--manager", encrypted.url()]);
    assert!(unknown.code == 3 && unknown.err.contains("--ca"), "{}", unknown.err);
    let trusted = orch(&encrypted, &["list", "--manager", encrypted.url(), "--ca", cert.to_str().unwrap()]);
    assert_eq!(trusted.code, 0, "{}", trusted.err);
    let lab = Lab::new();
    let tls = orch(&lab, &["list", "--manager", &format!("https://{}", lab.address())]);
    assert!(tls.code == 3 && tls.err.contains("http://"), "{}", tls.err);
}

#[test]
fn a_token_that_is_missing_or_wrong_is_told_with_where_it_comes_from() {
    let lab = Lab::new();
    let bare = |variable: Option<&str>, words: &[&str]| {
        let mut command = lab.bare(&["list", "--manager", lab.url()]);
        command.args(words).envs(variable.map(|token| ("ORCH_TOKEN", token)));
        Done::of(command)
    };
    for variable in [None, Some("")] {
        let none = bare(variable, &[]);
        assert_eq!(none.code, 2);
        for words in ["no admin token for", "--token-file", "ORCH_TOKEN or", "ORCH_TOKEN_FILE"] {
            assert!(none.err.contains(words), "{words}: {}", none.err);
        }
    }
    let wrong = bare(Some("not-the-token"), &[]);
    assert_eq!(wrong.code, 5);
    assert!(wrong.err.contains("ORCH_TOKEN") && !wrong.err.contains("not-the-token"), "{}", wrong.err);
    let file = lab.path("wrong.token");
    secret(&file, "not-the-token");
    let wrong = bare(None, &["--token-file", file.to_str().unwrap()]);
    assert!(wrong.code == 5 && wrong.err.contains("wrong.token"), "{}", wrong.err);
    let worker = lab.path("manager/worker.token");
    let worker = bare(None, &["--token-file", worker.to_str().unwrap()]);
    assert!(worker.code == 5 && worker.err.contains("admin.token"), "{}", worker.err);
}

#[test]
fn a_variable_names_the_file_of_the_token() {
    let lab = Lab::new();
    let wrong = lab.path("wrong.token");
    secret(&wrong, "not-the-token");
    let (right, wrong) = (lab.path("manager/admin.token"), wrong.as_path());
    let list = |variables: &[(&str, &Path)], words: &[&str]| {
        let mut command = lab.bare(&["list", "--manager", lab.url()]);
        command.args(words).envs(variables.iter().copied());
        Done::of(command)
    };
    let file = "ORCH_TOKEN_FILE";
    assert_eq!(list(&[(file, &right)], &[]).code, 0);
    let refused = list(&[(file, wrong)], &[]);
    assert!(
        refused.code == 5 && refused.err.contains(file) && refused.err.contains("wrong.token"),
        "{refused:?}"
    );
    // --token-file and ORCH_TOKEN come before it.
    assert_eq!(list(&[(file, wrong)], &["--token-file", right.to_str().unwrap()]).code, 0);
    let token = fs::read_to_string(&right).unwrap();
    assert_eq!(list(&[(file, wrong), ("ORCH_TOKEN", Path::new(token.trim()))], &[]).code, 0);
    assert_eq!(
        list(&[(file, &right), ("ORCH_TOKEN", Path::new(""))], &[]).code,
        0,
        "an empty one counts as none"
    );
    let missing = list(&[(file, Path::new("/nowhere"))], &[]);
    assert!(
        missing.code == 2 && missing.err.contains(file) && missing.err.contains("/nowhere"),
        "{missing:?}"
    );
    // That of a context comes after it.
    let mut add = lab.bare(&["context", "add", "here", "--manager", lab.url(), "--token-file"]);
    add.arg(wrong);
    assert_eq!(Done::of(add).code, 0);
    let mut of_context = lab.bare(&["list"]);
    of_context.env(file, &right);
    assert_eq!(Done::of(of_context).code, 0);
    let mut asked_for = lab.bare(&["list", "--context", "here"]);
    asked_for.env(file, &right);
    assert_eq!(Done::of(asked_for).code, 5);
    assert!(lab.orch(&["--help"]).out.contains(file));
}

#[test]
fn an_empty_variable_counts_as_none() {
    let lab = Lab::new();
    assert_eq!(orch(&lab, &["context", "add", "here", "--manager", lab.url()]).code, 0);
    let mut command = lab.bare(&["list"]);
    command.envs([("ORCH_MANAGER", ""), ("ORCH_CONTEXT", ""), ("ORCH_TOKEN", ""), ("ORCH_TOKEN_FILE", "")]);
    let done = Done::of(command);
    assert_eq!(done.code, 0, "{}", done.err);
}

#[test]
fn contexts_name_managers_and_what_they_need() {
    let lab = Lab::new();
    let add = orch(&lab, &["context", "add", "here", "--manager", lab.address()]);
    assert_eq!(add.code, 0, "{}", add.err);
    let elsewhere = format!("http://{}", nobody());
    let mut command = lab.bare(&["context", "add", "elsewhere", "--manager", &elsewhere, "--token-file"]);
    command.arg(lab.path("manager/admin.token"));
    assert_eq!(Done::of(command).code, 0);
    let config = lab.path("config/orch/config.toml");
    assert_eq!(fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);

    let bare = |words: &[&str], variables: &[(&str, &str)]| {
        let mut command = lab.bare(words);
        command.envs(variables.iter().copied());
        Done::of(command)
    };
    let listed = bare(&["context", "list"], &[]);
    assert!(listed.out.contains("here") && listed.out.contains(&elsewhere), "{}", listed.out);
    let json: serde_json::Value =
        serde_json::from_str(&bare(&["context", "list", "--json"], &[]).out).unwrap();
    assert_eq!(
        (&json["current"], &json["contexts"]["elsewhere"]["server"]),
        (&"here".into(), &elsewhere.as_str().into())
    );
    assert_eq!(bare(&["list"], &[]).code, 0, "the first one is in use");
    assert_eq!(bare(&["context", "use", "elsewhere"], &[]).code, 0);
    assert_eq!(bare(&["list"], &[]).code, 3);
    // The flag before the variable before what is in use.
    assert_eq!(bare(&["list"], &[("ORCH_CONTEXT", "here")]).code, 0);
    assert_eq!(bare(&["list", "--context", "here"], &[("ORCH_CONTEXT", "elsewhere")]).code, 0);
    assert_eq!(bare(&["list", "--context", "here"], &[("ORCH_MANAGER", &elsewhere)]).code, 0);
    assert_eq!(
        bare(&["list"], &[("ORCH_MANAGER", &elsewhere), ("ORCH_CONTEXT", "here"), ("ORCH_TOKEN", "x")]).code,
        3
    );

    let unknown = bare(&["list", "--context", "nowhere"], &[]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("elsewhere") && unknown.err.contains("here"), "{}", unknown.err);
    assert_eq!(bare(&["context", "use", "nowhere"], &[]).code, 2);
    assert_eq!(
        orch(&lab, &["context", "add", "here", "--manager", lab.url()]).code,
        2,
        "it is there already"
    );
    assert_eq!(orch(&lab, &["context", "add", "here", "--manager", lab.url(), "--replace"]).code, 0);
    assert_eq!(bare(&["context", "remove", "elsewhere"], &[]).code, 0);
    assert!(!bare(&["context", "list"], &[]).out.contains("elsewhere"));

    // A token in the file itself: nobody else may read it.
    let token = fs::read_to_string(lab.path("manager/admin.token")).unwrap();
    let text =
        format!("current = \"t\"\n[contexts.t]\nmanager = \"{}\"\ntoken = \"{}\"\n", lab.url(), token.trim());
    secret(&config, &text);
    assert_eq!(bare(&["list"], &[]).code, 0);
    assert!(!bare(&["context", "list", "--json"], &[]).out.contains(token.trim()));
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = bare(&["list"], &[]);
    assert!(exposed.code == 2 && exposed.err.contains("chmod 600"), "{}", exposed.err);
    secret(&config, "[contexts.t]\nmanger = \"x\"\n");
    let damaged = bare(&["list"], &[]);
    assert!(
        damaged.code == 2 && damaged.err.contains("config.toml") && damaged.err.contains("manger"),
        "{}",
        damaged.err
    );
}

#[test]
fn a_worker_that_its_manager_does_not_know_ends_with_an_error() {
    let mut lab = Lab::new();
    let wrong = lab.path("wrong.token");
    secret(&wrong, "not-the-token");
    let worker = |lab: &Lab| {
        let mut command = lab.worker_command("w1", "w1", &["--token-grace", "300ms"]);
        command.env("ORCH_LOG", "warn");
        command
    };
    let mut refused = worker(&lab);
    let words: Vec<_> = refused.get_args().map(ToOwned::to_owned).collect();
    let at = words.iter().position(|word| word == "--token-file").unwrap();
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_orch-worker"));
    again.args(&words[..=at]).arg(&wrong).args(&words[at + 2..]);
    let done = Done::of(again);
    assert_eq!(done.code, 6, "{}", done.err);
    assert!(done.err.contains("wrong.token") && !done.err.contains("not-the-token"), "{}", done.err);

    // One that was let in before waits for a manager that may only have been restarted with another file.
    let mut child =
        refused.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    lab.until("w1 in the cluster", |event| event["node"]["spec"]["id"] == "w1");
    lab.stop_manager();
    secret(&lab.path("manager/worker.token"), "another-token-of-workers");
    lab.start_manager(&[]);
    assert_eq!(child.wait().unwrap().code(), Some(6));
}
