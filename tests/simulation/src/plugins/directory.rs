//! The lookup source of the simulation.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use switchboard_core::record::Tenant;
use switchboard_core::worker::{LookupError, Lookups, Query};
use switchboard_sdk::testkit;

use crate::client::World;
use crate::faults::Kind;

/// An answer that no plugin can use.
pub(super) const BROKEN: &[u8] = b"{";

/// The keys that may have an entry.
const KNOWN: std::ops::Range<u32> = 0..20;

fn answer(key: u32) -> Option<Vec<u8>> {
    let known = KNOWN.contains(&key) && key % 4 != 3;
    known.then(|| format!(r#"{{"data":{{"attributes":{{"name":"n{key}","worldId":{}}}}}}}"#, key % 3).into_bytes())
}

/// All entries of the lookup source.
pub(crate) fn directory() -> testkit::Answers {
    let known = KNOWN.filter_map(|key| Some((("characters".to_owned(), key.to_string()), answer(key)?)));
    testkit::Answers(known.collect::<BTreeMap<_, _>>())
}

/// The lookup source as a worker sees it: it remembers some answers, some answers are broken, and some requests fail.
pub(crate) struct Directory {
    world: Rc<RefCell<World>>,
    random: RefCell<fastrand::Rng>,
    /// How long each request takes.
    pub(crate) takes: Cell<Duration>,
    /// How long requests took since this was last taken.
    pub(crate) spent: Cell<Duration>,
}

impl Directory {
    pub(crate) fn new(world: Rc<RefCell<World>>, random: fastrand::Rng) -> Self {
        let (takes, spent) = (Cell::default(), Cell::default());
        Self { world, random: RefCell::new(random), takes, spent }
    }
}

impl Lookups for Directory {
    fn known(&self, _: &Tenant, query: &Query) -> Option<Option<Vec<u8>>> {
        self.random.borrow_mut().bool().then(|| query.key.parse().ok().and_then(answer))
    }

    fn fetch(&self, _: &Tenant, query: &Query, attempt: u32, budget: Duration) -> Result<Option<Vec<u8>>, LookupError> {
        self.spent.set(self.spent.get() + self.takes.get().min(budget));
        let World { cluster, faults, .. } = &mut *self.world.borrow_mut();
        if self.takes.get() > budget || faults.strikes(Kind::Lookup, cluster) {
            return Err(LookupError::new("no answer"));
        }
        let broken = attempt == 0 && self.random.borrow_mut().u8(0..8) == 0;
        Ok(query.key.parse().ok().and_then(answer).map(|answer| if broken { BROKEN.to_vec() } else { answer }))
    }
}
