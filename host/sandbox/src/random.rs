//! Random numbers of a guest: a function of the record's coordinates and of nothing else.
//!
//! The same message gets the same numbers on every host and at every attempt. This file never reads the host's random
//! numbers.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};
use switchboard_core::record::Coordinates;

/// A generator in counter mode: number `n` is the keyed hash of `n`.
#[derive(Debug)]
pub(crate) struct Random {
    key: (u64, u64),
    next: u64,
}

impl Random {
    /// The numbers of the message with these coordinates.
    pub(crate) fn of(source: &Coordinates) -> Self {
        let mut hasher = SipHasher128::new();
        hasher.write(source.topic.as_bytes());
        // A topic alias cannot contain this byte, so the name's end is unambiguous.
        hasher.write_u8(0);
        hasher.write(&source.partition.get().to_le_bytes());
        hasher.write(&source.offset.get().to_le_bytes());
        let hash = hasher.finish128();
        Self { key: (hash.h1, hash.h2), next: 0 }
    }

    /// The numbers of an instance before its first message, and of a migration.
    pub(crate) fn constant() -> Self {
        Self { key: (0, 0), next: 0 }
    }

    pub(crate) fn next(&mut self) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(&self.next.to_le_bytes());
        self.next += 1;
        hasher.finish()
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length.next_multiple_of(8));
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coordinates(topic: &str, partition: u16, offset: u32) -> Coordinates {
        Coordinates { topic: topic.into(), partition: partition.into(), offset: offset.into() }
    }

    #[test]
    fn each_coordinate_changes_the_numbers() {
        let first = |source: &Coordinates| Random::of(source).bytes(16);
        let base = coordinates("T", 1, 2);
        assert_eq!(first(&base), first(&base.clone()));
        for other in [coordinates("U", 1, 2), coordinates("T", 2, 2), coordinates("T", 1, 3)] {
            assert_ne!(first(&base), first(&other));
        }
        let mut random = Random::of(&base);
        assert_eq!(random.bytes(3).len(), 3);
        assert_ne!(random.next(), random.next());
    }

    /// Plugins make ids of these numbers, so no version of the host may change them.
    #[test]
    fn the_numbers_never_change() {
        assert_eq!(Random::of(&coordinates("COMMAND_TOPIC", 3, 1_000_000)).next(), 6_646_751_390_253_227_516);
    }
}
