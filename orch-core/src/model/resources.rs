//! Resources that tasks request and nodes offer, in whole units, with arithmetic that cannot wrap.

use std::{collections::BTreeMap, fmt, ops::ControlFlow};

use serde::{Deserialize, Serialize};

/// Amounts of all resources: a task's request, a node's capacity, or what is left of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Cpu, in thousandths of a core.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_millis: u64,
    /// Main memory, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_bytes: u64,
    /// Countable devices by name: `gpu`, `fpga`, a licence.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, u64>,
    /// Host ports, each held by one task of a node at a time. A node's capacity lists none: every port is
    /// free until a task holds it. Sorted, no duplicates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Error: a sum left the range of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sum of the resources is out of range")]
pub struct Overflow;

/// Resource of which a node has too little.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "resource", rename_all = "snake_case")]
pub enum Shortage {
    /// Cpu, in thousandths of a core.
    Cpu {
        /// Amount that the task requests.
        needed: u64,
        /// Amount that is free.
        available: u64,
    },
    /// Memory, in bytes.
    Memory {
        /// Amount that the task requests, in bytes.
        needed: u64,
        /// Amount that is free, in bytes.
        available: u64,
    },
    /// A countable device.
    Device {
        /// Name of the device.
        name: String,
        /// Number that the task requests.
        needed: u64,
        /// Number that is free.
        available: u64,
    },
    /// A host port that another task of the node holds.
    Port {
        /// Number of the port.
        port: u16,
    },
}

impl Resources {
    /// `cpu_millis` thousandths of a core and `memory_bytes` bytes.
    #[must_use]
    pub fn new(cpu_millis: u64, memory_bytes: u64) -> Self {
        Self { cpu_millis, memory_bytes, ..Self::default() }
    }

    /// The same with `count` devices called `name`.
    #[must_use]
    pub fn device(mut self, name: impl Into<String>, count: u64) -> Self {
        self.devices.insert(name.into(), count);
        self
    }

    /// The same with one more host port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        if let Err(at) = self.ports.binary_search(&port) {
            self.ports.insert(at, port);
        }
        self
    }

    /// Whether all amounts are zero and no port is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cpu_millis == 0
            && self.memory_bytes == 0
            && self.devices.values().all(|count| *count == 0)
            && self.ports.is_empty()
    }

    /// Sum of both. Ports are united.
    ///
    /// # Errors
    /// [`Overflow`] when one of the amounts leaves its range.
    pub fn checked_add(&self, other: &Self) -> Result<Self, Overflow> {
        let mut sum = self.clone();
        sum.cpu_millis = sum.cpu_millis.checked_add(other.cpu_millis).ok_or(Overflow)?;
        sum.memory_bytes = sum.memory_bytes.checked_add(other.memory_bytes).ok_or(Overflow)?;
        for (name, count) in &other.devices {
            let held = sum.devices.entry(name.clone()).or_default();
            *held = held.checked_add(*count).ok_or(Overflow)?;
        }
        for port in &other.ports {
            sum = sum.port(*port);
        }
        Ok(sum)
    }
}

/// Sum of the resources held by the tasks of one node. Kept beside the node's capacity rather than subtracted
/// from it, because a node may return with less capacity than its running tasks hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Held {
    cpu_millis: u64,
    memory_bytes: u64,
    devices: BTreeMap<String, u64>,
    /// Number of tasks that hold a port. More than one only for a moment, when one task replaces another and
    /// its record is absorbed first: sums must not depend on the order of records.
    ports: BTreeMap<u16, u32>,
}

impl Held {
    /// Adds the request of one more task.
    ///
    /// # Panics
    /// When the sum leaves the range of `u64`: specs are bounded far below ([`Limits`](super::Limits)), so
    /// this is a bug of the caller.
    pub fn take(&mut self, request: &Resources) {
        self.cpu_millis = self.cpu_millis.checked_add(request.cpu_millis).expect("bounded by Limits");
        self.memory_bytes = self.memory_bytes.checked_add(request.memory_bytes).expect("bounded by Limits");
        for (name, count) in request.devices.iter().filter(|(_, count)| **count > 0) {
            let held = self.devices.entry(name.clone()).or_default();
            *held = held.checked_add(*count).expect("bounded by Limits");
        }
        for port in &request.ports {
            *self.ports.entry(*port).or_default() += 1;
        }
    }

    /// Subtracts the request of a task. It must have been taken before.
    ///
    /// # Panics
    /// When more is released than was taken.
    pub fn release(&mut self, request: &Resources) {
        self.cpu_millis = self.cpu_millis.checked_sub(request.cpu_millis).expect("taken before");
        self.memory_bytes = self.memory_bytes.checked_sub(request.memory_bytes).expect("taken before");
        for (name, count) in request.devices.iter().filter(|(_, count)| **count > 0) {
            let held = self.devices.get_mut(name).expect("taken before");
            *held = held.checked_sub(*count).expect("taken before");
            if *held == 0 {
                self.devices.remove(name);
            }
        }
        for port in &request.ports {
            let holders = self.ports.get_mut(port).expect("taken before");
            *holders -= 1;
            if *holders == 0 {
                self.ports.remove(port);
            }
        }
    }

    /// Thousandths of a core that are left of `capacity`.
    #[must_use]
    pub fn free_cpu_millis(&self, capacity: &Resources) -> u64 {
        capacity.cpu_millis.saturating_sub(self.cpu_millis)
    }

    /// Bytes of memory that are left of `capacity`.
    #[must_use]
    pub fn free_memory_bytes(&self, capacity: &Resources) -> u64 {
        capacity.memory_bytes.saturating_sub(self.memory_bytes)
    }

    /// Whether `request` fits beside what is held.
    #[must_use]
    #[inline]
    pub fn fits(&self, capacity: &Resources, request: &Resources) -> bool {
        self.shortage(capacity, request, |_| ControlFlow::Break(())).is_continue()
    }

    /// Every resource that is missing for `request` to fit; empty when it fits.
    #[must_use]
    pub fn shortages(&self, capacity: &Resources, request: &Resources) -> Vec<Shortage> {
        let mut missing = Vec::new();
        let _ = self.shortage(capacity, request, |shortage| {
            missing.push(shortage());
            ControlFlow::Continue(())
        });
        missing
    }

    /// Hands over the shortage of each resource that is missing for `request` to fit, until it is told to
    /// break.
    #[inline]
    pub(crate) fn shortage(
        &self,
        capacity: &Resources,
        request: &Resources,
        mut short: impl FnMut(&dyn Fn() -> Shortage) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (needed, available) = (request.cpu_millis, self.free_cpu_millis(capacity));
        if needed > available {
            short(&|| Shortage::Cpu { needed, available })?;
        }
        let (needed, available) = (request.memory_bytes, self.free_memory_bytes(capacity));
        if needed > available {
            short(&|| Shortage::Memory { needed, available })?;
        }
        for (name, needed) in &request.devices {
            let (needed, available) = (*needed, self.free_devices(capacity, name));
            if needed > available {
                short(&|| Shortage::Device { name: name.clone(), needed, available })?;
            }
        }
        for port in &request.ports {
            if self.ports.contains_key(port) {
                short(&|| Shortage::Port { port: *port })?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether everything held is within `capacity`.
    #[must_use]
    pub fn within(&self, capacity: &Resources) -> bool {
        self.cpu_millis <= capacity.cpu_millis
            && self.memory_bytes <= capacity.memory_bytes
            && self
                .devices
                .iter()
                .all(|(name, held)| *held <= capacity.devices.get(name).copied().unwrap_or(0))
    }

    fn free_devices(&self, capacity: &Resources, name: &str) -> u64 {
        let held = self.devices.get(name).copied().unwrap_or(0);
        capacity.devices.get(name).copied().unwrap_or(0).saturating_sub(held)
    }
}

impl Shortage {
    /// Amount that is requested in excess, as text: `1.5 cores less`. Rounded up. `None` for a port.
    pub(crate) fn less(&self) -> Option<String> {
        match self {
            Self::Cpu { needed, available } => Some(match Cores(needed.saturating_sub(*available)) {
                one @ Cores(1000) => format!("{one} core less"),
                cores => format!("{cores} cores less"),
            }),
            Self::Memory { needed, available } => {
                Some(format!("{} of memory less", Bytes(tenths_up(needed.saturating_sub(*available)))))
            }
            Self::Device { name, needed, available } => {
                Some(format!("{} of device {name:?} less", needed.saturating_sub(*available)))
            }
            Self::Port { .. } => None,
        }
    }
}

/// Smallest amount from `bytes` on that [`Bytes`] shows exactly.
fn tenths_up(bytes: u64) -> u64 {
    let Some((unit, _)) = UNITS.iter().find(|(unit, _)| bytes >= *unit) else { return bytes };
    let tenths = (u128::from(bytes) * 10).div_ceil(u128::from(*unit));
    // The tenth itself rounds down when it is shown, unless it is a whole number of bytes.
    u64::try_from((tenths * u128::from(*unit)).div_ceil(10)).unwrap_or(u64::MAX)
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu { needed, available } => {
                write!(f, "needs {} cores, {} available", Cores(*needed), Cores(*available))
            }
            Self::Memory { needed, available } => {
                write!(f, "needs {} of memory, {} available", Bytes(*needed), Bytes(*available))
            }
            Self::Device { name, needed, available } => {
                write!(f, "needs {needed} of device {name:?}, {available} available")
            }
            Self::Port { port } => write!(f, "host port {port} is taken"),
        }
    }
}

/// Thousandths of a core, shown in cores.
pub(super) struct Cores(pub(super) u64);

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1000 {
            0 => write!(f, "{}", self.0 / 1000),
            rest => write!(f, "{}.{}", self.0 / 1000, format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

/// Amount of bytes, shown in the largest unit that makes sense.
pub(super) struct Bytes(pub(super) u64);

const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, name) in UNITS {
            if self.0 >= unit {
                let tenths = u128::from(self.0) * 10 / u128::from(unit);
                return match tenths % 10 {
                    0 => write!(f, "{} {name}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {name}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resources() -> impl Strategy<Value = Resources> {
        (0..5000u64, 0..5000u64, 0..4u64, prop::collection::btree_set(1..20u16, 0..4)).prop_map(
            |(cpu, memory, gpu, ports)| {
                let mut all = Resources::new(cpu, memory).device("gpu", gpu);
                all.ports = ports.into_iter().collect();
                all
            },
        )
    }

    proptest! {
        #[test]
        fn releasing_everything_leaves_nothing(all in prop::collection::vec(resources(), 0..8)) {
            let mut held = Held::default();
            all.iter().for_each(|one| held.take(one));
            all.iter().for_each(|one| held.release(one));
            prop_assert_eq!(held, Held::default());
        }

        #[test]
        fn fits_exactly_when_nothing_is_short(held in resources(), capacity in resources(), request in resources()) {
            let mut sum = Held::default();
            sum.take(&held);
            prop_assert_eq!(sum.fits(&capacity, &request), sum.shortages(&capacity, &request).is_empty());
        }

        #[test]
        fn what_fits_stays_within_capacity(capacity in resources(), requests in prop::collection::vec(resources(), 0..8)) {
            let mut held = Held::default();
            for request in &requests {
                if held.fits(&capacity, request) {
                    held.take(request);
                }
            }
            prop_assert!(held.within(&capacity));
        }
    }

    #[test]
    fn sums_are_checked() {
        let most = Resources::new(u64::MAX, 0);
        assert_eq!(most.checked_add(&Resources::new(1, 0)), Err(Overflow));
        assert_eq!(
            Resources::new(1, 2).port(80).checked_add(&Resources::new(3, 4).port(80).port(22)),
            Ok(Resources::new(4, 6).port(22).port(80))
        );
    }

    #[test]
    fn shortages_read_like_sentences() {
        let held = Held::default();
        let request = Resources::new(1500, 3 << 29).device("gpu", 1);
        let texts: Vec<_> =
            held.shortages(&Resources::default(), &request).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "needs 1.5 cores, 0 available",
                "needs 1.5 GiB of memory, 0 B available",
                "needs 1 of device \"gpu\", 0 available"
            ]
        );
    }

    #[test]
    fn what_is_too_much_has_units_and_is_never_less_than_that() {
        let less = |request: Resources| {
            let held = Held::default();
            held.shortages(&Resources::default(), &request).iter().find_map(Shortage::less).unwrap()
        };
        assert_eq!(less(Resources::new(62_000, 0)), "62 cores less");
        assert_eq!(less(Resources::new(1000, 0)), "1 core less");
        assert_eq!(less(Resources::new(0, 3 << 29)), "1.5 GiB of memory less");
        assert_eq!(less(Resources::new(0, (3 << 29) + 1)), "1.6 GiB of memory less");
        assert_eq!(less(Resources::new(0, (1 << 30) - 1)), "1 GiB of memory less");
        assert_eq!(less(Resources::new(0, 7)), "7 B of memory less");
    }

    #[test]
    fn unknown_fields_are_refused() {
        let error = serde_json::from_str::<Resources>(r#"{"cpu": 1}"#).unwrap_err().to_string();
        assert!(error.contains("cpu_millis"), "{error}");
    }
}
