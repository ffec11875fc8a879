//! The inputs: a mix from a seed, for many tenants over all partitions of the source topic.

use fastrand::Rng;

use crate::generator;

/// The number of tenants.
pub const TENANTS: u32 = 50;
/// The number of keys that a tenant's inputs keep and drop.
const KEYS_PER_TENANT: u32 = 8;

/// A message for the ledger plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Unique. Ids count from 0.
    pub id: u64,
    pub tenant: String,
    /// The source partition. A tenant's inputs use all of them.
    pub partition: i32,
    /// The ledger's word and its argument.
    pub action: String,
}

impl generator::Input for Input {
    fn tenant(&self) -> String {
        self.tenant.clone()
    }

    fn partition(&self) -> i32 {
        self.partition
    }

    fn value(&self) -> String {
        format!("{} {}", self.id, self.action)
    }
}

impl Input {
    /// Whether the input must become a dead letter.
    pub fn is_refused(&self) -> bool {
        self.action.starts_with("refuse") || self.action.starts_with("trap")
    }
}

/// Endless inputs, the same ones for the same seed.
#[derive(Debug)]
pub struct Mix {
    random: Rng,
    next: u64,
    partitions: i32,
}

impl Mix {
    pub fn new(seed: u64, partitions: i32) -> Self {
        Self { random: Rng::with_seed(seed), next: 0, partitions }
    }
}

impl Iterator for Mix {
    type Item = Input;

    fn next(&mut self) -> Option<Input> {
        let random = &mut self.random;
        let key = random.u32(..KEYS_PER_TENANT);
        let action = match random.u32(..100) {
            0..40 => "note".to_owned(),
            40..55 => format!("many {}", random.u32(2..=3)),
            55..75 => format!("keep {key}"),
            75..90 => format!("drop {key}"),
            90..97 => format!("refuse {key}"),
            _ => format!("trap {key}"),
        };
        let tenant = random.u32(..TENANTS);
        let partition = random.i32(0..self.partitions);
        let input = Input { id: self.next, tenant: format!("tenant-{tenant}"), partition, action };
        self.next += 1;
        Some(input)
    }
}
