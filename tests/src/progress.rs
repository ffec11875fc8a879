//! Waits that are judged by progress. A wait fails when nothing that it watches has changed for [`NO_PROGRESS_LIMIT`]; how
//! long it takes in all is no verdict. A slow machine takes longer, and only a hang fails.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// How long a wait may see no change. A single step that tests wait for (the start of a broker, a rebalance, the end of a
/// session or of a transaction) takes a small part of it, on a slow and busy machine too.
pub const NO_PROGRESS_LIMIT: Duration = Duration::from_mins(2);

/// The pause between two looks at a condition.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Notices that nothing changes any more.
#[derive(Debug)]
pub struct Stall<P> {
    last: P,
    since: Instant,
    limit: Duration,
}

impl<P: PartialEq> Stall<P> {
    /// Starts with how far things are now.
    pub fn new(progress: P) -> Self {
        Self::with_limit(progress, NO_PROGRESS_LIMIT)
    }

    /// The same with another limit.
    pub fn with_limit(progress: P, limit: Duration) -> Self {
        Self { last: progress, since: Instant::now(), limit }
    }

    /// Takes in how far things are now.
    ///
    /// # Errors
    /// When they have been there for the whole limit.
    pub fn check(&mut self, progress: P) -> Result<()> {
        if progress != self.last {
            self.last = progress;
            self.since = Instant::now();
        }
        ensure!(!self.left().is_zero(), "no progress for {:?}", self.limit);
        Ok(())
    }

    /// How long there may still be no change.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }
}

/// Looks again and again until `look` breaks with a value. Until then `look` continues with its progress: anything that
/// changes as long as the awaited thing comes closer, and `()` for a single step. `what` names the awaited thing in the error.
///
/// # Errors
/// When the progress has not changed for [`NO_PROGRESS_LIMIT`], or when a look fails.
pub fn wait_for<T, P>(what: &str, mut look: impl FnMut() -> Result<ControlFlow<T, P>>) -> Result<T>
where
    P: PartialEq + Clone + Debug,
{
    let mut stall = None;
    loop {
        let progress = match look()? {
            ControlFlow::Break(value) => return Ok(value),
            ControlFlow::Continue(progress) => progress,
        };
        let stall = stall.get_or_insert_with(|| Stall::new(progress.clone()));
        if let Err(error) = stall.check(progress.clone()) {
            bail!("waiting for {what}: {error} (at {progress:?})");
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// Looks again and again until `look` is true; for a single step.
///
/// # Errors
/// When that takes [`NO_PROGRESS_LIMIT`], or when a look fails.
pub fn wait_until(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, || Ok(if look()? { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[test]
    fn a_wait_that_gets_on_lasts_longer_than_its_limit() {
        let mut stall = Stall::with_limit(0, LIMIT);
        let started = Instant::now();
        let mut progress = 0;
        while started.elapsed() < 3 * LIMIT {
            progress += 1;
            stall.check(progress).unwrap();
        }
    }

    #[test]
    fn a_wait_in_which_nothing_changes_fails() {
        let mut stall = Stall::with_limit(7, LIMIT);
        thread::sleep(LIMIT);
        assert_eq!(stall.check(7).unwrap_err().to_string(), "no progress for 20ms");
        stall.check(8).unwrap();
    }

    #[test]
    fn a_condition_is_looked_at_until_it_holds() -> Result<()> {
        let mut looks = 0;
        let value = wait_for("five looks", || {
            looks += 1;
            Ok(if looks == 5 { ControlFlow::Break("five") } else { ControlFlow::Continue(looks) })
        })?;
        assert_eq!((value, looks), ("five", 5));
        Ok(())
    }
}
