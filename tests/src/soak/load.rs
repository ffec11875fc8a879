//! What is sent: an endless row of inputs for the ledger, of which everything follows from the id.

use crate::generator;

/// How many tenants share the inputs, with equal parts.
pub const TENANTS: usize = 100;
/// Partitions of the source. A tenant's inputs come over all of them.
pub const PARTITIONS: i32 = 6;

/// A message that makes one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input(pub u64);

/// All of them, in order.
pub fn inputs() -> impl Iterator<Item = Input> + Send {
    (0..).map(Input)
}

/// Bits of an id that look like chance.
fn scattered(id: u64) -> u64 {
    // The finalizer of MurmurHash3, which mixes all bits into each.
    let mut bits = id;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ (bits >> 33)).wrapping_mul(factor);
    }
    bits ^ (bits >> 33)
}

impl Input {
    /// The number of its tenant.
    pub fn tenant(self) -> usize {
        // Within each hundred ids every tenant has one, so that none is silent for long.
        let (round, place) = (self.0 / TENANTS as u64, self.0 % TENANTS as u64);
        let tenant = (place + scattered(round) % TENANTS as u64) % TENANTS as u64;
        usize::try_from(tenant).expect("below the number of tenants")
    }

    /// Of the source.
    pub fn partition(self) -> i32 {
        let partition = scattered(!self.0) % u64::from(PARTITIONS.unsigned_abs());
        i32::try_from(partition).expect("below the number of partitions")
    }
}

impl generator::Input for Input {
    fn tenant(&self) -> String {
        name(Self::tenant(*self))
    }

    fn partition(&self) -> i32 {
        Self::partition(*self)
    }

    fn value(&self) -> String {
        format!("{} line", self.0)
    }
}

/// A tenant's name.
pub fn name(tenant: usize) -> String {
    format!("tenant-{tenant}")
}

/// The tenant of this name.
pub fn tenant(name: &str) -> Option<usize> {
    name.strip_prefix("tenant-")?.parse().ok().filter(|tenant| *tenant < TENANTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenant_has_its_part_over_all_partitions() {
        let mut counts = vec![[0; PARTITIONS as usize]; TENANTS];
        for input in inputs().take(600 * TENANTS) {
            counts[input.tenant()][usize::try_from(input.partition()).unwrap()] += 1;
        }
        for counts in counts {
            assert_eq!(counts.iter().sum::<usize>(), 600);
            assert!(counts.iter().all(|count| (60..140).contains(count)), "{counts:?}");
        }
    }
}
