//! [`Observation`]: a fact about an attempt that its agent knows best.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    model::{AttemptId, Timestamp, clip_words},
    runtime::{OutputStream, Usage},
};

/// Something that an agent observed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// The attempt that it is about.
    pub attempt: AttemptId,
    /// The observation itself.
    #[serde(rename = "seen")]
    pub kind: ObservationKind,
}

/// Kinds of observations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObservationKind {
    /// Progress of its preparation, or what holds it up; in words for people.
    Progress(String),
    /// It runs.
    Running {
        /// The engine's name for it.
        handle: String,
        /// Time of its start, by the node's clock.
        at: Timestamp,
    },
    /// Its usage.
    Usage(Usage),
    /// Result of its health check.
    Health(bool),
    /// A chunk of its output.
    Output {
        /// Stream that it was written to.
        stream: OutputStream,
        /// Bytes of this stream before it.
        offset: u64,
        /// The bytes.
        #[serde(with = "text_bytes")]
        data: Bytes,
    },
}

impl ObservationKind {
    /// The same with its words cut to a bound; output has one of its own.
    pub(in crate::engine) fn clipped(mut self) -> Self {
        if let Self::Progress(words) | Self::Running { handle: words, .. } = &mut self {
            clip_words(words);
        }
        self
    }
}

/// Bytes in JSON: as text where they are UTF-8, as numbers otherwise. Output is text nearly always.
pub(in crate::engine) mod text_bytes {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Raw(Vec<u8>),
    }

    pub(in crate::engine) fn serialize<S: Serializer>(
        data: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(data) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => serializer.collect_seq(data.iter()),
        }
    }

    pub(in crate::engine) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        Ok(match Form::deserialize(deserializer)? {
            Form::Text(text) => text.into(),
            Form::Raw(raw) => raw.into(),
        })
    }
}
