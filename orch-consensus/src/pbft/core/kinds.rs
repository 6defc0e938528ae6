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
}

pub(super) use kinds;
