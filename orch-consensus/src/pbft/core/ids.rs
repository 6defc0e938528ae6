//! Numbers, keys and hashes of the protocol.

use std::fmt;

use crate::codec::{Decode, Encode, Input, Malformed};

/// A position in the order of batches, from 1. 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seq(pub u64);

impl Seq {
    /// Before the first batch.
    pub const ZERO: Self = Self(0);

    /// The next position.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// `by` positions later.
    #[must_use]
    pub const fn plus(self, by: u64) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// A configuration of roles: the primary of view `v` is the member at `v mod n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct View(pub u64);

impl View {
    /// The view that follows when this one does not work.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Counts the memberships of a group. Views begin anew in each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// A member with a vote. Never used again for another member.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaId(pub u32);

macro_rules! shown_as {
    ($($name:ident $prefix:literal),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

shown_as!(Seq "s", View "v", Epoch "e", ReplicaId "r");

/// A BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The hash of `parts`, each under its length, for the purpose that `domain` names.
    #[must_use]
    pub fn of(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in [domain.as_bytes()].iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

/// An Ed25519 public key: a replica's or a client's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..4].iter().chain(&self.0[30..32]).try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    )*};
}

shown_as_hex!(Digest, PublicKey, Signature);

macro_rules! number {
    ($($name:ident),*) => {$(
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend(self.0.to_le_bytes());
            }
        }
    )*};
}

number!(Seq, View, Epoch, ReplicaId);

macro_rules! read_as {
    ($($name:ident $read:ident),*) => {$(
        impl Decode for $name {
            fn decode(input: &mut Input) -> Result<Self, Malformed> {
                input.$read().map(Self)
            }
        }
    )*};
}

read_as!(Seq u64, View u64, Epoch u64, ReplicaId u32);

macro_rules! array {
    ($($name:ident),*) => {$(
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend(self.0);
            }
        }

        impl Decode for $name {
            fn decode(input: &mut Input) -> Result<Self, Malformed> {
                input.array().map(Self)
            }
        }
    )*};
}

array!(Digest, PublicKey, Signature);
