//! Codec of enums.

/// A closed set of kinds, each under a number of its own.
macro_rules! kinds {
    ($name:ident { $($number:literal => $kind:ident ( $($field:ident),* ) ),* $(,)? }) => {
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$kind($($field),*) => {
                        out.push($number);
                        $($field.encode(out);)*
                    })*
                }
            }
        }

        impl Decode for $name {
            fn decode(input: &mut Input) -> Result<Self, Malformed> {
                match input.u8()? {
                    $($number => {
                        $(let $field = Decode::decode(input)?;)*
                        Ok(Self::$kind($($field),*))
                    })*
                    _ => Err(Malformed(concat!("an unknown kind of ", stringify!($name)))),
                }
            }
        }
    };
    // The same with a class for each kind, which its number alone tells.
    ($name:ident in $class:ident { $($number:literal => $kind:ident ( $($field:ident),* ) : $of:ident ),* $(,)? }) => {
        kinds!($name { $($number => $kind($($field),*)),* });

        impl $name {
            /// Its class.
            #[must_use]
            pub const fn class(&self) -> $class {
                match self {
                    $(Self::$kind(..) => $class::$of,)*
                }
            }
        }

        impl $class {
            /// Class of the kind with this number, if there is one.
            const fn of_kind(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$of),)*
                    _ => None,
                }
            }
        }
    };
}

pub(super) use kinds;
