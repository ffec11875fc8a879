//! What runs the jobs of a member, as the worker needs it: threads in a host, an order drawn from a seed in the simulation.

use super::fetch::Fetch;
use super::job::Job;

/// What runs jobs and fetches. They finish in any order and at any time. A job that ends early keeps the messages that it did
/// not run.
///
/// An implementation runs each job by [`Job::run`] and each fetch by [`Fetch::run`], and wakes a member that waits in
/// [`Consumer::poll`](super::Consumer::poll) when one of them has finished.
pub trait Executors<R> {
    /// Takes a job. The job with the smallest [`Job::used`] is run first. A tenant has at most one at a time whose results are
    /// used: if its shard is lost and comes back, the former one may still be out.
    fn submit(&mut self, job: Job<R>);

    /// Takes a fetch. It must not wait for those of other tenants.
    fn fetch(&mut self, fetch: Fetch);

    /// Something that has finished. Does not wait.
    fn finished(&mut self) -> Option<Finished<R>>;
}

/// Something that has finished.
#[expect(clippy::large_enum_variant, reason = "nearly all of them are jobs")]
pub enum Finished<R> {
    /// A job.
    Job(Job<R>),
    /// A fetch.
    Fetch(Fetch),
}
