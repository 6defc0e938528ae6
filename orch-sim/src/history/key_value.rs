use super::Model;

/// Keys with values, each key by itself. What was never written has no value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue;

/// Operations of a client on a [`KeyValue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyValueInput {
    /// Reads the value.
    Get {
        /// Of this key.
        key: u64,
    },
    /// Let this be the value.
    Put {
        /// Of this key.
        key: u64,
        /// The value.
        value: u64,
    },
    /// Let this be the value, if the value is now that.
    Cas {
        /// Of this key.
        key: u64,
        /// Expected value; `None` for no value.
        expected: Option<u64>,
        /// New value.
        new: u64,
    },
}

/// Outputs of a [`KeyValue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyValueOutput {
    /// To a get: the value, if there is one.
    Value(Option<u64>),
    /// To a put.
    Written,
    /// To a cas: whether the value was the expected one and is now the new one.
    Swapped(bool),
}

impl KeyValueInput {
    /// The key that it is about.
    pub fn key(&self) -> u64 {
        match self {
            Self::Get { key } | Self::Put { key, .. } | Self::Cas { key, .. } => *key,
        }
    }
}

impl Model for KeyValue {
    type State = Option<u64>;
    type Input = KeyValueInput;
    type Output = KeyValueOutput;

    fn initial(&self) -> Self::State {
        None
    }

    fn apply(&self, state: &Self::State, input: &Self::Input) -> (Self::State, Self::Output) {
        match *input {
            KeyValueInput::Get { .. } => (*state, KeyValueOutput::Value(*state)),
            KeyValueInput::Put { value, .. } => (Some(value), KeyValueOutput::Written),
            KeyValueInput::Cas { expected, new, .. } if expected == *state => {
                (Some(new), KeyValueOutput::Swapped(true))
            }
            KeyValueInput::Cas { .. } => (*state, KeyValueOutput::Swapped(false)),
        }
    }

    fn partition(&self, input: &Self::Input) -> u64 {
        input.key()
    }
}
