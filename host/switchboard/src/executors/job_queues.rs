//! Which job does a thread run next? Data only: no threads, no locks, no clock.
//!
//! Each thread has a queue, ordered by the time that the jobs' tenants have used. A job waits in the queue of the thread that ran its
//! tenant's last job, whose caches may still have the tenant's data. A free thread runs the job of the tenant that has used the
//! least time. The jobs of other threads count as if their tenants had used [`AFFINITY_MARGIN`] more. So a job goes where
//! its tenant's last one ran while all threads are busy alike, and no tenant falls behind by more than that.
//!
//! A thread that runs one job for longer than [`OVERDUE`] is no reason to wait: the jobs in its queue count like all others.

use std::collections::BTreeMap;
use std::time::Duration;

/// How much more time a tenant counts as having used, if its job waits for another thread. A few jobs take this long.
pub(super) const AFFINITY_MARGIN: Duration = Duration::from_millis(5);

/// After this time with one job a thread is not waited for.
pub(super) const OVERDUE: Duration = super::MAX_SLICE;

/// For how many tenants it is known which thread ran their last job. Two tenants whose hashes end alike share an entry.
const REMEMBERED_TENANTS: usize = 1 << 16;

/// The jobs that wait for a thread.
pub(super) struct JobQueues<J> {
    threads: Vec<ThreadQueue<J>>,
    /// Threads that wait for a job and are not woken yet. The one that began to wait last is at the end.
    idle: Vec<usize>,
    /// For each tenant's hash, the thread that ran its last job.
    last_threads: Vec<Option<u16>>,
    len: usize,
    /// Orders jobs whose tenants have used the same time.
    next_number: u64,
}

struct ThreadQueue<J> {
    waiting: BTreeMap<(Duration, u64), Waiting<J>>,
    /// Since when the thread has been running a job.
    busy_since: Option<Duration>,
}

struct Waiting<J> {
    tenant: u64,
    job: J,
}

impl<J> JobQueues<J> {
    /// The empty queues of threads that are not idle yet. At most `u16::MAX` threads.
    pub(super) fn new(threads: usize) -> Self {
        let queue = || ThreadQueue { waiting: BTreeMap::new(), busy_since: None };
        Self {
            threads: std::iter::repeat_with(queue).take(threads).collect(),
            idle: Vec::with_capacity(threads),
            last_threads: vec![None; REMEMBERED_TENANTS],
            len: 0,
            next_number: 0,
        }
    }

    /// The number of jobs that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a job. `used`: the time that its tenant has used. `tenant`: a hash of the tenant. Returns the idle thread that
    /// has to be woken.
    pub(super) fn push(&mut self, used: Duration, tenant: u64, job: J) -> Option<usize> {
        let home = self.last_thread(tenant).map(usize::from);
        let home = home.or_else(|| self.idle.last().copied()).unwrap_or_else(|| self.shortest());
        self.threads[home].waiting.insert((used, self.next_number), Waiting { tenant, job });
        self.next_number += 1;
        self.len += 1;
        let woken = self.idle.iter().position(|thread| *thread == home).or_else(|| self.idle.len().checked_sub(1))?;
        Some(self.idle.remove(woken))
    }

    /// The next job of a free thread. `None`: the thread is idle until `push` returns it. `now`: the monotonic time since some
    /// fixed point.
    pub(super) fn take(&mut self, thread: usize, now: Duration) -> Option<J> {
        self.idle.retain(|idle| *idle != thread);
        self.threads[thread].busy_since = None;
        let Some(from) = self.next_queue(thread, now) else {
            self.idle.push(thread);
            return None;
        };
        let (_, Waiting { tenant, job }) = self.threads[from].waiting.pop_first()?;
        self.len -= 1;
        self.threads[thread].busy_since = Some(now);
        *self.last_thread_mut(tenant) = u16::try_from(thread).ok();
        Some(job)
    }

    /// The thread from whose queue a thread takes its next job.
    fn next_queue(&self, thread: usize, now: Duration) -> Option<usize> {
        let first = |(number, queue): (usize, &ThreadQueue<J>)| {
            let (&(used, job), _) = queue.waiting.first_key_value()?;
            let is_overdue = queue.busy_since.is_some_and(|since| now.saturating_sub(since) >= OVERDUE);
            let margin = if number == thread || is_overdue { Duration::ZERO } else { AFFINITY_MARGIN };
            Some((used + margin, number != thread, job, number))
        };
        let (.., number) = self.threads.iter().enumerate().filter_map(first).min()?;
        Some(number)
    }

    fn shortest(&self) -> usize {
        let length = |thread: &usize| self.threads[*thread].waiting.len();
        (0..self.threads.len()).min_by_key(length).expect("there is a thread")
    }

    fn last_thread(&self, tenant: u64) -> Option<u16> {
        self.last_threads[slot(tenant)]
    }

    fn last_thread_mut(&mut self, tenant: u64) -> &mut Option<u16> {
        &mut self.last_threads[slot(tenant)]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
fn slot(tenant: u64) -> usize {
    (tenant % REMEMBERED_TENANTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Takes one job after the other, and returns their tenants.
    fn drain(queues: &mut JobQueues<u64>, thread: usize) -> Vec<u64> {
        std::iter::from_fn(|| queues.take(thread, NOW)).collect()
    }

    /// Adds a job that is its tenant's number.
    fn push(queues: &mut JobQueues<u64>, used: Duration, tenant: u64) -> Option<usize> {
        queues.push(used, tenant, tenant)
    }

    /// Queues of two threads, of which each has run a job of these tenants last.
    fn with_homes(tenants: [&[u64]; 2]) -> JobQueues<u64> {
        let mut queues = JobQueues::new(2);
        for (thread, tenants) in tenants.into_iter().enumerate() {
            for tenant in tenants {
                push(&mut queues, NOW, *tenant);
                assert_eq!(queues.take(thread, NOW), Some(*tenant));
            }
        }
        queues
    }

    #[test]
    fn the_tenant_that_has_used_the_least_time_goes_first() {
        let mut queues = JobQueues::new(1);
        for (used, tenant) in [(3, 0), (1, 1), (2, 2), (1, 3)] {
            push(&mut queues, ms(used), tenant);
        }
        assert_eq!((queues.len(), drain(&mut queues, 0)), (4, vec![1, 3, 2, 0]));
        assert_eq!(queues.len(), 0);
    }

    #[test]
    fn a_job_waits_for_the_thread_that_ran_its_tenants_last_job() {
        let mut queues = with_homes([&[1, 2], &[3]]);
        push(&mut queues, ms(1), 3);
        push(&mut queues, ms(2), 1);
        assert_eq!(queues.take(0, NOW), Some(1), "tenant 3 is only a little behind");
        assert_eq!(queues.take(1, NOW), Some(3));
    }

    #[test]
    fn a_tenant_that_falls_behind_goes_first_on_any_thread() {
        let mut queues = with_homes([&[1], &[3]]);
        push(&mut queues, ms(1), 3);
        push(&mut queues, ms(2) + AFFINITY_MARGIN, 1);
        assert_eq!(queues.take(0, NOW), Some(3));
        push(&mut queues, ms(1), 3);
        assert_eq!(queues.take(0, NOW), Some(3), "now thread 0 ran its last job");
    }

    #[test]
    fn jobs_do_not_wait_for_a_thread_that_runs_one_job_for_long() {
        let mut queues = with_homes([&[1], &[3]]);
        push(&mut queues, ms(1), 3);
        push(&mut queues, ms(2), 1);
        assert_eq!(queues.take(0, OVERDUE), Some(3));
    }

    #[test]
    fn a_free_thread_takes_jobs_of_others() {
        let mut queues = with_homes([&[1, 2], &[3]]);
        push(&mut queues, ms(5), 1);
        push(&mut queues, ms(3), 2);
        assert_eq!(drain(&mut queues, 1), [2, 1]);
    }

    #[test]
    fn a_job_wakes_the_thread_of_its_tenant_or_else_another_one() {
        let mut queues = with_homes([&[1], &[3]]);
        assert_eq!((queues.take(0, NOW), queues.take(1, NOW)), (None, None));
        assert_eq!(push(&mut queues, NOW, 1), Some(0), "the thread of tenant 1, though 1 began to wait later");
        assert_eq!(push(&mut queues, NOW, 1), Some(1), "thread 0 is awake, and thread 1 has nothing to do");
        assert_eq!(push(&mut queues, NOW, 1), None);
        assert_eq!(drain(&mut queues, 0), [1, 1, 1]);
        assert_eq!(queues.take(1, NOW), None, "another thread was faster");
        assert_eq!(push(&mut queues, NOW, 9), Some(1), "a tenant without a thread: the one that began to wait last");
    }

    #[test]
    fn new_tenants_spread_over_busy_threads() {
        let mut queues = JobQueues::new(2);
        for tenant in 0..4 {
            assert_eq!(push(&mut queues, ms(tenant), tenant), None);
        }
        assert_eq!((queues.take(0, NOW), queues.take(1, NOW)), (Some(0), Some(1)));
        assert_eq!((queues.take(0, NOW), queues.take(1, NOW)), (Some(2), Some(3)));
    }
}
