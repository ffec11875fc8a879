//! The inputs: an endless sequence for the ledger. The id of an input determines everything else about it.

use crate::generator;

/// The number of tenants, which share the inputs equally.
pub const TENANTS: usize = 100;
/// The number of source partitions. A tenant's inputs use all of them.
pub const PARTITIONS: i32 = 6;

/// A message that makes one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input(pub u64);

/// All inputs, in order.
pub fn inputs() -> impl Iterator<Item = Input> + Send {
    (0..).map(Input)
}

/// A pseudo-random number that the id determines.
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
        // Each hundred ids contain one of every tenant, so that no tenant is silent for long.
        let round = self.0 / TENANTS as u64;
        let index = self.0 % TENANTS as u64;
        let tenant = (index + scattered(round) % TENANTS as u64) % TENANTS as u64;
        usize::try_from(tenant).expect("below the number of tenants")
    }

    /// The source partition.
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
    fn every_tenant_has_an_equal_share_over_all_partitions() {
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
