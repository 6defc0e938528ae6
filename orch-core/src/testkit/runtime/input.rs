//! Cases of the input of a task, and of specs that are rejected.

use super::{
    Outcome, Program,
    bench::{Bench, with_secret},
};
use crate::{
    model::{PullPolicy, SecretRef, SecretTarget, TaskSpec, WorkKind, Workload},
    runtime::{Progress, RuntimeErrorKind, Work},
    testkit::{Failure, ensure},
};

pub(super) async fn environment_arguments_and_directory(bench: &Bench<'_>) -> Outcome {
    let mut spec = bench.harness.program(&Program::ShowsInput).env("GREETING", "a b=$c");
    spec.args.extend(["zero", "one two", ""].map(String::from));
    spec.working_dir = Some("/usr".into());
    let attempt = bench.start(&bench.work(spec)).await?;
    bench.runtime().wait(attempt).await?;
    let output = bench.output(attempt, true).await?;
    ensure!(output.stdout == "a b=$c|one two||/usr\n", "it saw {:?}", output.stdout);
    Ok(())
}

const SECRET: &str = "correct horse battery staple";

fn secretive(bench: &Bench<'_>, program: &Program) -> Work {
    let mut spec = bench.harness.program(program);
    let env = SecretTarget::Env { variable: "TOKEN".into() };
    let file = bench.harness.secret_files().then(|| SecretTarget::File { path: bench.harness.secret_path() });
    let targets = [env].into_iter().chain(file);
    spec.secrets = targets.map(|target| SecretRef { name: "token".into(), target }).collect();
    with_secret(bench.work(spec), "token", SECRET)
}

pub(super) async fn secrets_arrive(bench: &Bench<'_>) -> Outcome {
    let (program, expected) = match bench.harness.secret_files() {
        true => {
            let path = bench.harness.secret_path();
            (Program::ShowsTokens { path }, format!("{SECRET}|{SECRET}------\n"))
        }
        false => (Program::ShowsToken, SECRET.into()),
    };
    let work = secretive(bench, &program);
    let attempt = bench.start(&work).await?;
    bench.runtime().wait(attempt).await?;
    let output = bench.output(attempt, true).await?;
    ensure!(output.stdout == expected, "variable, file and the file's rights are {:?}", output.stdout);
    Ok(())
}

pub(super) async fn secrets_are_never_printed(bench: &Bench<'_>) -> Outcome {
    let work = secretive(bench, &Program::exits(0));
    bench.start(&work).await?;
    let runtime = bench.runtime();
    let found = runtime.list().await?;
    for text in [format!("{work:?}"), format!("{runtime:?}"), format!("{found:?}")] {
        ensure!(!text.contains(SECRET), "a secret is in {text:?}");
    }
    Ok(())
}

pub(super) async fn a_missing_secret_is_an_error(bench: &Bench<'_>) -> Outcome {
    let mut work = secretive(bench, &Program::exits(0));
    work.secrets.clear();
    refused(bench, &work, &[RuntimeErrorKind::InvalidSpec]).await
}

pub(super) async fn a_missing_program_is_an_error(bench: &Bench<'_>) -> Outcome {
    let mut spec = bench.harness.program(&Program::exits(0));
    match &mut spec.workload {
        Workload::Image { command, .. } => *command = vec!["/no/such/program".into()],
        Workload::Program { program } => *program = "/no/such/program".into(),
    }
    refused(bench, &bench.work(spec), &[RuntimeErrorKind::InvalidSpec]).await
}

pub(super) async fn a_missing_user_is_an_error(bench: &Bench<'_>) -> Outcome {
    let mut spec = bench.harness.program(&Program::exits(0));
    spec.isolation.user = Some("nobody-has-this-name".into());
    // A backend that cannot change users rejects the spec instead.
    refused(bench, &bench.work(spec), &[RuntimeErrorKind::InvalidSpec, RuntimeErrorKind::Unsupported]).await
}

pub(super) async fn a_missing_image_is_an_error(bench: &Bench<'_>) -> Outcome {
    image_refused(bench, "orch-conformance/no-such-image:1", RuntimeErrorKind::ImageNotFound).await
}

pub(super) async fn a_bad_image_reference_is_an_error(bench: &Bench<'_>) -> Outcome {
    image_refused(bench, "Not/A/Reference:::", RuntimeErrorKind::BadReference).await
}

async fn image_refused(bench: &Bench<'_>, reference: &str, kind: RuntimeErrorKind) -> Outcome {
    if bench.runtime().capabilities().kind != WorkKind::Image {
        return Ok(());
    }
    let mut spec = TaskSpec::image("job", reference);
    if let Workload::Image { pull, .. } = &mut spec.workload {
        *pull = PullPolicy::Never; // the result must not depend on a registry
    }
    refused(bench, &bench.work(spec), &[kind]).await
}

/// A rejected attempt leaves nothing behind, and a repetition is rejected in the same way.
async fn refused(bench: &Bench<'_>, work: &Work, kinds: &[RuntimeErrorKind]) -> Outcome {
    let runtime = bench.runtime();
    for _ in 0..2 {
        let answer = match runtime.prepare(work, &Progress::none()).await {
            Ok(()) => runtime.start(work).await.map(drop),
            Err(error) => Err(error),
        };
        match answer {
            Err(error) if kinds.contains(&error.kind) => {}
            Err(error) => return Err(Failure(format!("refused as {} ({error})", error.kind.as_str()))),
            Ok(()) => return Err(Failure("it was started".into())),
        }
        ensure!(
            !runtime.list().await?.iter().any(|found| found.attempt == work.attempt),
            "something is left"
        );
    }
    Ok(())
}
