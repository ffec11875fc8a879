//! Waits that progress decides. A wait fails when nothing that it watches has changed for [`NO_PROGRESS_LIMIT`]. The
//! total time does not matter: a slow machine takes longer, and only a hang fails.

use std::fmt::Debug;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

/// The longest time without progress. A step that tests wait for takes a small part of it, even on a slow and busy machine.
/// Such steps are the start of a broker, a rebalance, and the end of a session or of a transaction.
pub const NO_PROGRESS_LIMIT: Duration = Duration::from_mins(2);

/// The pause between two checks of a condition.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Detects that nothing changes any more.
#[derive(Debug)]
pub struct Stall<P> {
    last: P,
    since: Instant,
    limit: Duration,
}

impl<P: PartialEq> Stall<P> {
    /// Starts with the current progress.
    pub fn new(progress: P) -> Self {
        Self::with_limit(progress, NO_PROGRESS_LIMIT)
    }

    /// The same with another limit.
    pub fn with_limit(progress: P, limit: Duration) -> Self {
        Self { last: progress, since: Instant::now(), limit }
    }

    /// Takes the current progress.
    ///
    /// # Errors
    /// When the progress has not changed for the whole limit.
    pub fn check(&mut self, progress: P) -> Result<()> {
        if progress != self.last {
            self.last = progress;
            self.since = Instant::now();
        }
        ensure!(!self.left().is_zero(), "no progress for {:?}", self.limit);
        Ok(())
    }

    /// The time that is left before the limit.
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.since.elapsed())
    }
}

/// Calls `look` repeatedly until it breaks with a value. Until then `look` continues with its progress: any value that
/// changes while the awaited event comes closer, or `()` for a single step. `what` names the awaited event in the
/// error.
///
/// # Errors
/// When the progress has not changed for [`NO_PROGRESS_LIMIT`], or when `look` fails.
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
        thread::sleep(CHECK_INTERVAL);
    }
}

/// Calls `look` repeatedly until it returns true. For a single step.
///
/// # Errors
/// When that takes [`NO_PROGRESS_LIMIT`], or when `look` fails.
pub fn wait_until(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, || Ok(if look()? { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[test]
    fn a_wait_with_progress_may_last_longer_than_its_limit() {
        let mut stall = Stall::with_limit(0, LIMIT);
        let started = Instant::now();
        let mut progress = 0;
        while started.elapsed() < 3 * LIMIT {
            progress += 1;
            stall.check(progress).unwrap();
        }
    }

    #[test]
    fn a_wait_without_progress_fails() {
        let mut stall = Stall::with_limit(7, LIMIT);
        thread::sleep(LIMIT);
        assert_eq!(stall.check(7).unwrap_err().to_string(), "no progress for 20ms");
        stall.check(8).unwrap();
    }

    #[test]
    fn a_condition_is_checked_until_it_holds() -> Result<()> {
        let mut looks = 0;
        let value = wait_for("five looks", || {
            looks += 1;
            Ok(if looks == 5 { ControlFlow::Break("five") } else { ControlFlow::Continue(looks) })
        })?;
        assert_eq!((value, looks), ("five", 5));
        Ok(())
    }
}
