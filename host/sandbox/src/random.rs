use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};
use switchboard_core::record::Coordinates;

/// A message's random numbers: a function of its record's coordinates, and of nothing else.
#[derive(Debug)]
pub(super) struct Random {
    key: (u64, u64),
    next: u64,
}

impl Random {
    pub(super) fn of(source: &Coordinates) -> Self {
        let mut hasher = SipHasher128::new();
        hasher.write(source.topic.as_bytes());
        // No topic's alias has this byte.
        hasher.write_u8(0);
        hasher.write(&source.partition.get().to_le_bytes());
        hasher.write(&source.offset.get().to_le_bytes());
        let hash = hasher.finish128();
        Self { key: (hash.h1, hash.h2), next: 0 }
    }

    /// What an instance is given before its first message.
    pub(super) fn constant() -> Self {
        Self { key: (0, 0), next: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(&self.next.to_le_bytes());
        self.next += 1;
        hasher.finish()
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
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
    fn coordinates_make_the_numbers_and_each_of_them_counts() {
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

    /// A plugin's ids are made of these: they must not change with a version of the host.
    #[test]
    fn the_numbers_stay_what_they_are() {
        assert_eq!(Random::of(&coordinates("COMMAND_TOPIC", 3, 1_000_000)).next(), 6_646_751_390_253_227_516);
    }
}
