//! The macro that defines the numbers of Kafka that are never negative, and the error of their conversions.

/// A number that is not valid as an offset, a shard or a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not {kind}: it must be from 0 to {max}")]
pub struct OutOfRange {
    pub(super) value: i128,
    pub(super) kind: &'static str,
    pub(super) max: i128,
}

/// Defines a newtype of a signed integer that is never negative. `From` takes the type `$small`, whose values are all
/// valid. `TryFrom` takes the other types.
macro_rules! non_negative {
    (
        $(#[$attribute:meta])*
        $name:ident: $int:ty, $text:literal, $kind:literal, from $small:ty, try_from [$($other:ty),*]
    ) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(into = $text, try_from = $text)]
        pub struct $name($int);

        impl $name {
            /// Wraps a number; `None`: it is negative.
            pub const fn new(value: $int) -> Option<Self> {
                if value < 0 { None } else { Some(Self(value)) }
            }

            /// The number, never negative.
            pub const fn get(self) -> $int {
                self.0
            }
        }

        impl From<$small> for $name {
            fn from(value: $small) -> Self {
                Self(<$int>::from(value))
            }
        }

        impl From<$name> for $int {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        $(
            impl TryFrom<$other> for $name {
                type Error = crate::record::OutOfRange;

                fn try_from(value: $other) -> Result<Self, Self::Error> {
                    let number = <$int>::try_from(value).ok().and_then(Self::new);
                    number.ok_or(crate::record::OutOfRange {
                        value: i128::try_from(value).unwrap_or(i128::MAX),
                        kind: $kind,
                        max: i128::from(<$int>::MAX),
                    })
                }
            }
        )*

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        /// Writes the plain number, as `Display` does, so that log fields stay short.
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pub(super) use non_negative;
