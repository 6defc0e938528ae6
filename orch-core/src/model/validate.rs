//! Rules that a spec must satisfy before it is accepted, with an error that names the field and the fix.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    MountSource, SecretTarget, TaskSpec, Workload,
    resources::{Bytes, Cores},
};

/// Bounds on one spec. Every replica of a cluster must use the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest name, in bytes.
    pub name_bytes: usize,
    /// Total size of all texts of a spec (arguments, environment, labels, paths), in bytes.
    pub text_bytes: usize,
    /// Maximum number of entries of any one list or map.
    pub entries: usize,
    /// Maximum cpu of one task, in thousandths of a core.
    pub cpu_millis: u64,
    /// Maximum memory of one task, in bytes.
    pub memory_bytes: u64,
    /// Maximum number of devices of one kind for one task.
    pub devices: u64,
    /// Maximum output kept of one task, in bytes.
    pub output_bytes: u64,
    /// Longest timeout, delay or grace, in milliseconds.
    pub duration_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            name_bytes: 128,
            text_bytes: 256 << 10,
            entries: 1024,
            cpu_millis: 10_000_000,
            memory_bytes: 1 << 50,
            devices: 1_000_000,
            output_bytes: 64 << 20,
            duration_ms: 10 * 365 * 86_400_000,
        }
    }
}

/// A spec that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{field}: {problem}")]
pub struct InvalidSpec {
    /// Path of the field in the JSON form.
    pub field: String,
    /// Description of the broken rule and of a valid value.
    pub problem: String,
}

impl TaskSpec {
    /// Checks every rule that does not depend on the state of a cluster.
    ///
    /// # Errors
    /// The first field that breaks a rule.
    pub fn validate(&self, limits: &Limits) -> Result<(), InvalidSpec> {
        let mut texts = Texts { left: limits.text_bytes };
        check_name(&self.name, limits)?;
        self.check_workload(&mut texts)?;
        self.check_lists(limits, &mut texts)?;
        self.check_resources(limits)?;
        self.check_durations(limits)?;
        self.check_places()?;
        if self.output_limit_bytes > limits.output_bytes {
            return refuse("output_limit_bytes", format!("at most {} are kept", Bytes(limits.output_bytes)));
        }
        Ok(())
    }

    fn check_workload(&self, texts: &mut Texts) -> Result<(), InvalidSpec> {
        match &self.workload {
            Workload::Image { image, command, registry_credentials, .. } => {
                texts.take("workload.command", command)?;
                if registry_credentials.as_deref().is_some_and(|name| !is_plain_name(name)) {
                    return refuse("workload.registry_credentials", PLAIN.into());
                }
                check_image(image)
            }
            Workload::Program { program } => {
                texts.take("workload.program", [program])?;
                match program.is_empty() {
                    true => refuse("workload.program", "is empty; name a program or a path".into()),
                    false => Ok(()),
                }
            }
        }
    }

    fn check_lists(&self, limits: &Limits, texts: &mut Texts) -> Result<(), InvalidSpec> {
        let counts = [
            ("args", self.args.len()),
            ("env", self.env.len()),
            ("labels", self.labels.len()),
            ("constraints", self.constraints.len()),
            ("mounts", self.mounts.len()),
            ("secrets", self.secrets.len()),
            ("health.command", self.health.as_ref().map_or(0, |check| check.command.len())),
            ("isolation.add_capabilities", self.isolation.add_capabilities.len()),
            ("resources.devices", self.resources.devices.len()),
            ("resources.ports", self.resources.ports.len()),
        ];
        for (field, count) in counts {
            if count > limits.entries {
                return refuse(field, format!("has {count} entries; at most {} are allowed", limits.entries));
            }
        }
        texts.take("args", &self.args)?;
        texts.take("working_dir", &self.working_dir)?;
        texts.take("isolation.user", &self.isolation.user)?;
        texts.take(
            "isolation.add_capabilities",
            self.isolation.add_capabilities.iter().map(|added| &added.0),
        )?;
        texts.take("health.command", self.health.iter().flat_map(|check| &check.command))?;
        texts.take("resources.devices", self.resources.devices.keys())?;
        texts.take("mounts.target", self.mounts.iter().map(|mount| &mount.target))?;
        texts.take("mounts.source", self.mounts.iter().filter_map(|mount| mount.source.text()))?;
        texts.take("secrets.name", self.secrets.iter().map(|secret| &secret.name))?;
        texts.take("secrets.target", self.secrets.iter().map(|secret| secret.target.text()))?;
        if let Some(signed) = &self.signature {
            texts.take("signature", [&signed.payload_sha256, &signed.public_key, &signed.signature])?;
        }
        for (name, value) in &self.env {
            check_variable("env", name)?;
            texts.take("env", [name, value])?;
        }
        for (name, value) in &self.labels {
            texts.take("labels", [name, value])?;
        }
        for constraint in &self.constraints {
            texts.take("constraints", [&constraint.to_string()])?;
        }
        Ok(())
    }

    fn check_resources(&self, limits: &Limits) -> Result<(), InvalidSpec> {
        let asked = &self.resources;
        let too_much = |field: &str, asked: &dyn fmt::Display, most: &dyn fmt::Display| {
            refuse(field, format!("asks for {asked}; at most {most} is possible"))
        };
        if asked.cpu_millis > limits.cpu_millis {
            let (asked, most) = (Cores(asked.cpu_millis), Cores(limits.cpu_millis));
            return too_much("resources.cpu_millis", &format!("{asked} cores"), &most);
        }
        if asked.memory_bytes > limits.memory_bytes {
            let (asked, most) = (Bytes(asked.memory_bytes), Bytes(limits.memory_bytes));
            return too_much("resources.memory_bytes", &asked, &most);
        }
        if let Some((name, count)) = asked.devices.iter().find(|(_, count)| **count > limits.devices) {
            return too_much(&format!("resources.devices.{name}"), count, &limits.devices);
        }
        if asked.ports.contains(&0) {
            return refuse("resources.ports", "0 is not a port".into());
        }
        if !asked.ports.is_sorted_by(|a, b| a < b) {
            return refuse("resources.ports", "must be sorted, without duplicates".into());
        }
        Ok(())
    }

    fn check_durations(&self, limits: &Limits) -> Result<(), InvalidSpec> {
        let most = Duration::from_millis(limits.duration_ms);
        let timeouts = [
            ("timeouts.queue_ms", self.timeouts.queue),
            ("timeouts.run_ms", self.timeouts.run),
            ("timeouts.total_ms", self.timeouts.total),
        ];
        for (field, timeout) in timeouts {
            if timeout.is_some_and(|timeout| timeout.is_zero()) {
                return refuse(field, "is zero; leave it out for no limit".into());
            }
        }
        let health = self.health.as_deref();
        let durations = timeouts.into_iter().chain([
            ("retry.backoff_ms", Some(self.retry.backoff)),
            ("retry.backoff_max_ms", Some(self.retry.backoff_max)),
            ("node_loss.wait_ms", Some(self.node_loss_policy().wait)),
            ("stop.grace_ms", Some(self.stop.grace)),
            ("health.interval_ms", health.map(|check| check.interval)),
            ("health.timeout_ms", health.map(|check| check.timeout)),
            ("health.start_period_ms", health.map(|check| check.start_period)),
        ]);
        for (field, duration) in durations {
            if duration.is_some_and(|duration| duration > most) {
                return refuse(field, format!("is longer than {} ms", limits.duration_ms));
            }
        }
        if let Some(check) = health {
            if check.command.is_empty() {
                return refuse("health.command", "is empty; name the program to run".into());
            }
            if check.timeout.is_zero() || check.interval.is_zero() {
                return refuse("health", "interval_ms and timeout_ms must not be zero".into());
            }
        }
        Ok(())
    }

    fn check_places(&self) -> Result<(), InvalidSpec> {
        for mount in &self.mounts {
            check_absolute("mounts.target", &mount.target)?;
            if let MountSource::Host { path } = &mount.source {
                check_absolute("mounts.source.path", path)?;
            }
        }
        for secret in &self.secrets {
            if !is_plain_name(&secret.name) {
                return refuse("secrets.name", PLAIN.into());
            }
            match &secret.target {
                SecretTarget::Env { variable } => check_variable("secrets.target.variable", variable)?,
                SecretTarget::File { path } => check_absolute("secrets.target.path", path)?,
            }
        }
        Ok(())
    }
}

/// Counts the text bytes of a spec against their bound and rejects text that no operating system can pass on.
struct Texts {
    left: usize,
}

impl Texts {
    fn take<'a>(
        &mut self,
        field: &str,
        texts: impl IntoIterator<Item = &'a String>,
    ) -> Result<(), InvalidSpec> {
        for text in texts {
            if text.contains('\0') {
                return refuse(field, "contains a NUL character".into());
            }
            self.left = self.left.checked_sub(text.len()).ok_or_else(|| InvalidSpec {
                field: field.into(),
                problem: "the spec's texts are too long together; put the data into a file or a volume"
                    .into(),
            })?;
        }
        Ok(())
    }
}

fn check_name(name: &str, limits: &Limits) -> Result<(), InvalidSpec> {
    if name.trim().is_empty() {
        return refuse("name", "is empty; say what the task is called".into());
    }
    if name.len() > limits.name_bytes {
        return refuse(
            "name",
            format!("is {} bytes long; at most {} are allowed", name.len(), limits.name_bytes),
        );
    }
    match name.chars().any(char::is_control) {
        true => refuse("name", "contains a control character".into()),
        false => Ok(()),
    }
}

/// Rejects only what every engine rejects; the finer rules of references are left to the engine.
fn check_image(image: &str) -> Result<(), InvalidSpec> {
    if image.is_empty() {
        return refuse("workload.image", "is empty; name an image such as busybox:1.36".into());
    }
    if image.len() > 512 {
        return refuse("workload.image", "is longer than 512 bytes".into());
    }
    match image.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => {
            refuse("workload.image", "contains a blank or a character that no image reference has".into())
        }
    }
}

fn check_variable(field: &str, name: &str) -> Result<(), InvalidSpec> {
    match name.is_empty() || name.contains(['=', '\0']) {
        true => refuse(field, format!("{name:?} cannot name an environment variable")),
        false => Ok(()),
    }
}

fn check_absolute(field: &str, path: &str) -> Result<(), InvalidSpec> {
    match path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == "..") {
        true => Ok(()),
        false => refuse(field, format!("{path:?} must be an absolute path without '..'")),
    }
}

const PLAIN: &str = "only letters, digits, '.', '_' and '-' are allowed";

fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn refuse<T>(field: &str, problem: String) -> Result<T, InvalidSpec> {
    Err(InvalidSpec { field: field.into(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mount, Resources, SecretRef};

    fn refused(spec: &TaskSpec) -> String {
        spec.validate(&Limits::default()).expect_err("must be refused").to_string()
    }

    #[test]
    fn each_bad_field_is_named() {
        let good = || TaskSpec::program("a", "b");
        assert_eq!(good().validate(&Limits::default()), Ok(()));

        let mut mounts = good();
        mounts.mounts.push(Mount {
            target: "/data".into(),
            source: MountSource::Host { path: "/srv/../etc".into() },
            read_only: false,
        });
        let mut secret = good();
        secret
            .secrets
            .push(SecretRef { name: "../key".into(), target: SecretTarget::Env { variable: "K".into() } });
        let mut output = good();
        output.output_limit_bytes = u64::MAX;
        let mut unsorted = good();
        unsorted.resources.ports = vec![80, 22];

        for (spec, field) in [
            (TaskSpec::program("", "b"), "name"),
            (TaskSpec::program("x".repeat(129), "b"), "name"),
            (TaskSpec::program("a\u{7}", "b"), "name"),
            (TaskSpec::program("a", ""), "workload.program"),
            (TaskSpec::image("a", ""), "workload.image"),
            (TaskSpec::image("a", "busy box"), "workload.image"),
            (good().args(["x\0y"]), "args"),
            (good().args(["x".repeat(300 << 10)]), "args"),
            (good().args(vec!["x"; 2000]), "args"),
            (good().env("A=B", "c"), "env"),
            (good().cpu_millis(u64::MAX), "resources.cpu_millis"),
            (good().memory_mib(u64::MAX), "resources.memory_bytes"),
            (good().resources(Resources::default().device("gpu", u64::MAX)), "resources.devices.gpu"),
            (good().resources(Resources::default().port(0)), "resources.ports"),
            (unsorted, "resources.ports"),
            (good().run_timeout(Duration::ZERO), "timeouts.run_ms"),
            (good().total_timeout(Duration::MAX), "timeouts.total_ms"),
            (mounts, "mounts.source.path"),
            (secret, "secrets.name"),
            (output, "output_limit_bytes"),
        ] {
            let error = refused(&spec);
            assert!(error.starts_with(&format!("{field}: ")), "{error}");
            assert!(error.len() < 200, "{error}");
        }
    }
}
