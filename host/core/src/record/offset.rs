//! A position in a partition's log.

use super::non_negative::non_negative;

non_negative! {
    /// The position of a record in its partition, never negative. In ranges and committed offsets it is the position
    /// of the next record to read. An offset that may be absent is an `Option<Offset>`.
    Offset: i64, "i64", "an offset", from u32, try_from [i64, u64, usize]
}

impl Offset {
    /// The offset at which every log begins.
    pub const ZERO: Self = Self(0);

    /// The offset after this one, where a consumer that has processed this record continues.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The number of offsets from `start` up to this one; 0 if this one is before `start`.
    pub fn distance_from(self, start: Self) -> u64 {
        u64::try_from(self.0 - start.0).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_never_negative() {
        assert_eq!(Offset::new(-1), None);
        assert_eq!(Offset::try_from(-1_i64).unwrap_err().to_string().split(':').next(), Some("-1 is not an offset"));
        assert!(Offset::try_from(u64::MAX).is_err());
        assert!(serde_json::from_str::<Offset>("-1").is_err());
        assert!(postcard::from_bytes::<Offset>(&[1]).is_err(), "-1 in postcard's form");
    }

    #[test]
    fn an_offset_is_written_as_its_number() {
        let offset = Offset::from(7);
        assert_eq!((offset.to_string(), format!("{offset:?}")), ("7".into(), "7".into()));
        assert_eq!(serde_json::to_string(&offset).unwrap(), "7");
        assert_eq!(postcard::to_allocvec(&offset).unwrap(), postcard::to_allocvec(&7_i64).unwrap());
    }

    #[test]
    fn offsets_are_counted_from_a_start() {
        assert_eq!(Offset::from(7).next(), Offset::from(8));
        assert_eq!(Offset::from(7).distance_from(Offset::from(5)), 2);
        assert_eq!(Offset::from(5).distance_from(Offset::from(7)), 0);
    }
}
