//! [`SharedSpec`]: a reference-counted spec with an id derived from its content.

use std::{
    fmt, io,
    ops::Deref,
    str::FromStr,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

use super::{IdError, Isolation, Resources, TaskSpec, Workload, ids::clip};
use crate::hex::{from_hex, to_hex};

/// Spec shared by tasks, attempts and messages: a clone copies a pointer, and dereferences to the
/// [`TaskSpec`]. Its JSON is that of the spec.
#[derive(Clone)]
pub struct SharedSpec(Arc<Inner>);

struct Inner {
    spec: TaskSpec,
    large: bool,
    /// Boxed separately, as most specs are small and their ids are never requested.
    id: OnceLock<Box<SpecId>>,
}

/// Bytes of text from which a spec is large. Never changed: the format of records depends on it.
const LARGE_BYTES: usize = 512;

impl SharedSpec {
    /// SHA-256 of the spec's JSON, computed once.
    ///
    /// # Panics
    /// Never: a spec always has a JSON form.
    #[must_use]
    pub fn id(&self) -> SpecId {
        **self.0.id.get_or_init(|| {
            let json = serde_json::to_vec(&self.0.spec).expect("plain data has a JSON form");
            Box::new(SpecId(Sha256::digest(json).into()))
        })
    }

    /// Spec of a record that was stored under this id. A later version may compute another id for the same
    /// spec, which does no harm: it is stored once more.
    pub(crate) fn stored(id: SpecId, spec: TaskSpec) -> Self {
        Self::new(spec, OnceLock::from(Box::new(id)))
    }

    /// Whether the spec is stored in a record of its own. A small one is cheaper to write again than to look
    /// up.
    pub(crate) fn is_large(&self) -> bool {
        self.0.large
    }

    /// Bound on the bytes of its JSON form. A plain spec is not written out for it: assignments of many small
    /// tasks are bounded by it.
    pub(crate) fn json_bytes_max(&self) -> usize {
        /// Names and numbers of a spec without lists.
        const FIELDS_BYTES_MAX: usize = 1 << 10;
        /// JSON form of a byte of text: `\u0001`, and marks around an entry.
        const ESCAPED_BYTES_MAX: usize = 6;
        if let Some(text) = self.plain_text_bytes() {
            return FIELDS_BYTES_MAX + text * ESCAPED_BYTES_MAX;
        }
        let mut counted = Counted(0);
        serde_json::to_writer(&mut counted, &self.0.spec).expect("plain data has a JSON form");
        counted.0
    }

    /// Bytes of text of a spec that has no other part of variable size but a few entries of arguments,
    /// environment and labels. Names every field, so that a new one is decided on.
    fn plain_text_bytes(&self) -> Option<usize> {
        const ENTRIES_MAX: usize = 64;
        let TaskSpec {
            name,
            namespace,
            workload,
            args,
            env,
            working_dir,
            resources: Resources { cpu_millis: _, memory_bytes: _, devices, ports },
            constraints,
            isolation,
            mounts,
            health,
            secrets,
            labels,
            signature,
            // Of a fixed size.
            priority: _,
            timeouts: _,
            restart: _,
            retry: _,
            node_loss: _,
            stop: _,
            output_limit_bytes: _,
        } = &self.0.spec;
        let (subject, lists) = match workload {
            Workload::Image { image, command, pull: _, registry_credentials } => {
                (image, command.len() + usize::from(registry_credentials.is_some()))
            }
            Workload::Program { program } => (program, 0),
        };
        let lists = lists + devices.len() + ports.len() + constraints.len() + mounts.len() + secrets.len();
        let boxed = working_dir.is_some() || health.is_some() || signature.is_some();
        let entries = args.len() + env.len() + labels.len();
        let is_plain = !self.0.large
            && lists == 0
            && !boxed
            && entries <= ENTRIES_MAX
            && **isolation == Isolation::default();
        let text =
            || text_bytes(&self.0.spec) + subject.len() + name.len() + namespace.as_str().len() + entries;
        is_plain.then(text)
    }

    /// Whether both point to one spec, or are large and equal in content.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.is_large() && other.is_large() && self.id() == other.id()
    }

    fn new(spec: TaskSpec, id: OnceLock<Box<SpecId>>) -> Self {
        let large = text_bytes(&spec) >= LARGE_BYTES;
        Self(Arc::new(Inner { spec, large, id }))
    }
}

/// Bytes of arguments, environment and labels.
fn text_bytes(spec: &TaskSpec) -> usize {
    let pairs = spec.env.iter().chain(&spec.labels).map(|(name, value)| name.len() + value.len());
    spec.args.iter().map(String::len).chain(pairs).sum()
}

/// Writer that counts bytes.
struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl From<TaskSpec> for SharedSpec {
    fn from(spec: TaskSpec) -> Self {
        Self::new(spec, OnceLock::new())
    }
}

impl Deref for SharedSpec {
    type Target = TaskSpec;

    fn deref(&self) -> &TaskSpec {
        &self.0.spec
    }
}

impl PartialEq for SharedSpec {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.spec == other.0.spec
    }
}

impl Eq for SharedSpec {}

impl fmt::Debug for SharedSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.spec.fmt(f)
    }
}

impl Serialize for SharedSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.spec.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TaskSpec::deserialize(deserializer).map(Self::from)
    }
}

/// Id of a spec by its content: 32 bytes, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpecId([u8; 32]);

impl fmt::Display for SpecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&to_hex(&self.0))
    }
}

impl fmt::Debug for SpecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpecId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let refused = || IdError { what: "spec id", text: clip(text), rule: "it has 64 hexadecimal digits" };
        from_hex(text).map(Self).ok_or_else(refused)
    }
}

impl Serialize for SpecId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpecId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Constraint, NetworkMode};

    #[test]
    fn equal_specs_have_one_id_and_others_have_another() {
        let spec = || TaskSpec::program("t", "true").args(["a".repeat(LARGE_BYTES)]);
        let (one, same) = (SharedSpec::from(spec()), SharedSpec::from(spec()));
        assert!(one.id() == same.id() && one.is(&same) && one == same);
        let other = SharedSpec::from(spec().args(["b"]));
        assert!(one.id() != other.id() && !one.is(&other) && one != other);
        let json = serde_json::to_string(&one).unwrap();
        assert_eq!(json, serde_json::to_string(&spec()).unwrap());
        assert_eq!(serde_json::from_str::<SharedSpec>(&json).unwrap(), one);
        let small = || SharedSpec::from(TaskSpec::program("t", "true").args(["a".repeat(LARGE_BYTES - 1)]));
        assert!(one.is_large() && !small().is_large());
        assert!(small() == small() && !small().is(&small()), "of small ones the content is not compared");
    }

    #[test]
    fn the_bound_of_the_json_form_holds() {
        // A control character takes six bytes in JSON.
        let worst = "\u{1}".repeat(LARGE_BYTES - 1);
        for args in [vec![], vec![worst.clone()], vec!["x".repeat(LARGE_BYTES)], vec![String::new(); 1000]] {
            let spec = SharedSpec::from(TaskSpec::program("\u{1}".repeat(128), worst.clone()).args(args));
            assert!(spec.json_bytes_max() >= serde_json::to_vec(&*spec).unwrap().len());
        }
    }

    #[test]
    fn no_part_of_a_spec_is_left_out_of_the_bound() {
        let long = || "x".repeat(64 << 10);
        let with: [fn(&mut TaskSpec, String); 8] = [
            |spec, text| spec.working_dir = Some(text),
            |spec, text| spec.isolation.user = Some(text),
            |spec, text| spec.isolation.network = NetworkMode::Named(text),
            |spec, text| spec.resources.devices.extend([(text, 1)]),
            |spec, _| spec.resources.ports = (0..20_000).collect(),
            |spec, text| spec.constraints.push(Constraint::Exists { label: text }),
            |spec, text| spec.name = text,
            |spec, text| {
                let (image, command) = (String::new(), Vec::new());
                let registry_credentials = Some(text);
                spec.workload =
                    Workload::Image { image, command, pull: Default::default(), registry_credentials };
            },
        ];
        for (at, change) in with.into_iter().enumerate() {
            let mut spec = TaskSpec::program("t", "true");
            change(&mut spec, long());
            let spec = SharedSpec::from(spec);
            assert!(spec.json_bytes_max() >= serde_json::to_vec(&*spec).unwrap().len(), "part {at}");
        }
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = SharedSpec::from(TaskSpec::program("t", "true")).id();
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "ab", &"x".repeat(64), &"é".repeat(32), &"a".repeat(65)] {
            assert!(bad.parse::<SpecId>().is_err(), "{bad}");
        }
    }
}
