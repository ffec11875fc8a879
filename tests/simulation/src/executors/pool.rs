//! Threads in virtual time: each runs one piece of work at a time, and none of them needs a turn of the schedule.

use std::time::Duration;

/// A piece of work that waits for a thread.
struct Waiting<T> {
    submitted: Duration,
    work: T,
}

/// A piece of work on a thread, or one that has finished there.
struct Started<T> {
    finishes: Duration,
    work: T,
}

/// A number of threads, with the work that they have.
pub(super) struct Pool<T> {
    /// When each thread is free.
    free: Vec<Duration>,
    /// In the order in which they were submitted.
    waiting: Vec<Waiting<T>>,
    started: Vec<Started<T>>,
}

impl<T> Pool<T> {
    pub(super) fn new(threads: usize) -> Self {
        assert!(threads > 0);
        Self { free: vec![Duration::ZERO; threads], waiting: Vec::new(), started: Vec::new() }
    }

    pub(super) fn submit(&mut self, now: Duration, work: T) {
        self.waiting.push(Waiting { submitted: now, work });
    }

    /// Has free threads start what they could start until now. Each takes the work with the smallest `rank` of those that
    /// were submitted by then. `run` runs it from a time on, and returns when it finishes.
    pub(super) fn advance<R: Ord>(
        &mut self,
        now: Duration,
        rank: impl Fn(&T) -> R,
        mut run: impl FnMut(&mut T, Duration) -> Duration,
    ) {
        while let Some(first) = self.waiting.iter().map(|waiting| waiting.submitted).min() {
            let free = self.free.iter_mut().min().expect("there is a thread");
            let at = first.max(*free);
            if at > now {
                return;
            }
            let due = (0..self.waiting.len()).filter(|place| self.waiting[*place].submitted <= at);
            let next = due.min_by_key(|place| rank(&self.waiting[*place].work)).expect("the first one is due");
            let mut work = self.waiting.remove(next).work;
            let finishes = run(&mut work, at);
            assert!(finishes >= at, "nothing finishes before it starts");
            *free = finishes;
            self.started.push(Started { finishes, work });
        }
    }

    /// How many pieces of work have finished by now. `take` has them by these numbers, from 0.
    pub(super) fn finished(&self, now: Duration) -> usize {
        self.started.iter().filter(|started| started.finishes <= now).count()
    }

    /// Takes one of those that have finished.
    pub(super) fn take(&mut self, now: Duration, number: usize) -> T {
        let finished = (0..self.started.len()).filter(|place| self.started[*place].finishes <= now);
        let place = finished.into_iter().nth(number).expect("so many have finished");
        self.started.remove(place).work
    }

    /// When the next one finishes, of those that threads have.
    pub(super) fn next_finish(&self) -> Option<Duration> {
        self.started.iter().map(|started| started.finishes).min()
    }

    /// All work that was not taken yet.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        let waiting = self.waiting.iter().map(|waiting| &waiting.work);
        waiting.chain(self.started.iter().map(|started| &started.work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work that takes a number of milliseconds, with its rank and its name.
    type Work = (u64, u32, &'static str);

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn advance(pool: &mut Pool<Work>, now: u64) -> Vec<&'static str> {
        let mut started = Vec::new();
        pool.advance(
            ms(now),
            |(_, rank, _)| *rank,
            |(takes, _, name), at| {
                started.push(*name);
                at + ms(*takes)
            },
        );
        started
    }

    #[test]
    fn a_thread_runs_one_piece_of_work_at_a_time() {
        let mut pool = Pool::new(1);
        pool.submit(ms(0), (10, 0, "a"));
        pool.submit(ms(0), (10, 0, "b"));
        assert_eq!(advance(&mut pool, 9), ["a"]);
        assert_eq!((pool.finished(ms(9)), pool.next_finish()), (0, Some(ms(10))));
        assert_eq!(advance(&mut pool, 10), ["b"]);
        assert_eq!(pool.finished(ms(10)), 1);
        assert_eq!(pool.take(ms(10), 0).2, "a");
        assert_eq!((pool.finished(ms(19)), pool.next_finish()), (0, Some(ms(20))));
    }

    #[test]
    fn several_threads_run_at_once_and_finish_in_any_order() {
        let mut pool = Pool::new(2);
        for work in [(30, 0, "slow"), (1, 0, "quick"), (1, 0, "last")] {
            pool.submit(ms(0), work);
        }
        assert_eq!(advance(&mut pool, 5), ["slow", "quick", "last"]);
        assert_eq!(pool.finished(ms(5)), 2);
        assert_eq!((pool.take(ms(5), 1).2, pool.take(ms(5), 0).2), ("last", "quick"));
        assert_eq!((pool.finished(ms(29)), pool.finished(ms(30))), (0, 1));
    }

    #[test]
    fn the_smallest_rank_of_those_that_wait_goes_first() {
        let mut pool = Pool::new(1);
        let work = [(0, (10, 9, "first")), (1, (10, 2, "third")), (1, (10, 1, "second")), (25, (10, 0, "too late"))];
        for (at, work) in work {
            pool.submit(ms(at), work);
        }
        // Nobody looked for a while, and the threads went on meanwhile.
        assert_eq!(advance(&mut pool, 100), ["first", "second", "third", "too late"]);
        assert_eq!((pool.finished(ms(100)), pool.finished(ms(30))), (4, 3));
    }
}
