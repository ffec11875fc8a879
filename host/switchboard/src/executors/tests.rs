//! Jobs and fetches here are closures, so the threads are tested without a worker.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use switchboard_kafka::Shutdown;

use super::failure::Failure;
use super::job_threads::JobThreads;
use super::lookup_threads::LookupThreads;
use super::outbox::Outbox;
use super::{END_WAIT, MAX_SLICE, MIN_SLICE};

/// Longer than any test takes.
const LONG: Duration = Duration::from_mins(1);

type GoesOn<'a> = dyn FnMut(Duration) -> bool + 'a;
type FakeJob = Box<dyn FnMut(&mut GoesOn<'_>) + Send>;
type FakeFetch = Box<dyn FnMut() + Send>;

fn job(run: impl FnMut(&mut GoesOn<'_>) + Send + 'static) -> FakeJob {
    Box::new(run)
}

/// Waits until something holds.
fn until(holds: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "it does not hold after {LONG:?}");
        std::thread::yield_now();
    }
}

/// The next messages of a channel.
fn next<T>(channel: &Receiver<T>, count: usize) -> Vec<T> {
    (0..count).map(|_| channel.recv_timeout(LONG).expect("a message")).collect()
}

/// Threads that run jobs, and the jobs that came back.
struct Rig {
    threads: JobThreads<FakeJob>,
    outbox: Outbox<FakeJob>,
    finished: Receiver<FakeJob>,
    /// Gets one message for each job that came back.
    woken: Receiver<()>,
    stop: Shutdown,
    failure: Failure,
}

fn wake_by(sender: Sender<()>) -> Arc<dyn Fn() + Send + Sync> {
    let sender = std::sync::Mutex::new(sender);
    Arc::new(move || _ = super::lock(&sender).send(()))
}

impl Rig {
    fn new(threads: usize) -> Self {
        let stop = Shutdown::default();
        let failure = Failure::new(&stop);
        let threads = JobThreads::start(threads, &failure, |job: &mut FakeJob, goes_on| job(goes_on)).unwrap();
        let ((wake, woken), (sender, finished)) = (channel(), channel());
        Self { threads, outbox: Outbox::new(sender, wake_by(wake)), finished, woken, stop, failure }
    }

    fn submit(&self, used: Duration, tenant: u64, job: FakeJob) {
        self.threads.submit(used, tenant, job, self.outbox.clone());
    }

    /// Keeps a thread busy until the sender is dropped. Returns when the thread runs the job.
    fn occupy(&self) -> Sender<()> {
        let ((release, released), (running, runs)) = (channel::<()>(), channel());
        self.submit(
            Duration::ZERO,
            u64::MAX,
            job(move |_| {
                running.send(()).unwrap();
                _ = released.recv();
            }),
        );
        runs.recv_timeout(LONG).unwrap();
        release
    }
}

#[test]
fn a_finished_job_comes_back_to_its_member_and_wakes_it() {
    let rig = Rig::new(2);
    let ((wake, woken), (sender, finished)) = (channel(), channel());
    rig.submit(Duration::ZERO, 1, job(|_| {}));
    rig.threads.submit(Duration::ZERO, 2, job(|_| {}), Outbox::new(sender, wake_by(wake)));
    for (woken, finished) in [(&rig.woken, &rig.finished), (&woken, &finished)] {
        woken.recv_timeout(LONG).unwrap();
        drop(finished.try_recv().expect("it is there before the member is woken"));
        assert!(finished.try_recv().is_err());
    }
}

#[test]
fn waiting_jobs_run_in_the_order_of_the_time_that_their_tenants_used() {
    let rig = Rig::new(1);
    let release = rig.occupy();
    let (ran, order) = channel();
    for used in [3, 1, 2] {
        let ran = ran.clone();
        rig.submit(Duration::from_millis(used), used, job(move |_| ran.send(used).unwrap()));
    }
    drop(release);
    assert_eq!(next(&order, 3), [1, 2, 3]);
}

#[test]
fn a_free_thread_runs_what_waits_for_a_busy_one() {
    let rig = Rig::new(2);
    let release = [rig.occupy(), rig.occupy()];
    // Tenants without a thread: these jobs spread over both threads' queues.
    let (ran, all) = channel();
    for tenant in 0..4 {
        let ran = ran.clone();
        rig.submit(Duration::ZERO, tenant, job(move |_| ran.send(tenant).unwrap()));
    }
    let [first, _second] = release;
    drop(first);
    let mut all = next(&all, 4);
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3], "the other thread is still busy");
}

/// A thread that falls asleep while a job arrives would leave it there.
#[test]
fn no_job_is_left_while_threads_fall_idle_and_wake() {
    let rig = Rig::new(3);
    for burst in 0..2000 {
        for tenant in 0..burst % 7 {
            rig.submit(Duration::ZERO, tenant, job(|_| {}));
        }
        drop(next(&rig.finished, usize::try_from(burst % 7).unwrap()));
    }
}

/// What a job that has taken this long is told.
fn goes_on(rig: &Rig, took: Duration) -> bool {
    let (answer, told) = channel();
    rig.submit(Duration::ZERO, 7, job(move |goes_on| answer.send(goes_on(took)).unwrap()));
    told.recv_timeout(LONG).unwrap()
}

#[test]
fn a_job_alone_goes_on_until_its_longest_slice() {
    let rig = Rig::new(1);
    assert!(goes_on(&rig, MIN_SLICE));
    assert!(goes_on(&rig, MAX_SLICE.saturating_sub(Duration::from_nanos(1))));
    assert!(!goes_on(&rig, MAX_SLICE));
}

#[test]
fn a_job_makes_room_for_another_one_that_waits() {
    let rig = Rig::new(1);
    let ((ask, asked), (answer, told)) = (channel(), channel());
    rig.submit(
        Duration::ZERO,
        1,
        job(move |goes_on| {
            while let Ok(took) = asked.recv() {
                answer.send(goes_on(took)).unwrap();
            }
        }),
    );
    let goes_on = |took| {
        ask.send(took).unwrap();
        told.recv_timeout(LONG).unwrap()
    };
    assert!(goes_on(MIN_SLICE));
    rig.submit(Duration::ZERO, 2, job(|_| {}));
    assert!(goes_on(MIN_SLICE.saturating_sub(Duration::from_nanos(1))), "a slice has a least length");
    assert!(!goes_on(MIN_SLICE));
}

#[test]
fn a_panic_in_a_job_stops_the_host_with_a_message() {
    let rig = Rig::new(2);
    rig.submit(Duration::ZERO, 1, job(|_| panic!("this panic is part of a test")));
    assert!(rig.stop.wait(LONG));
    assert_eq!(rig.failure.first().unwrap(), "a thread that runs plugins panicked");
    // The other thread still runs, until the host ends it.
    rig.submit(Duration::ZERO, 2, job(|_| {}));
    rig.woken.recv_timeout(LONG).unwrap();
    rig.threads.stop();
}

#[test]
fn a_stop_ends_idle_threads_and_does_not_wait_for_a_long_call() {
    let rig = Rig::new(3);
    let release = rig.occupy();
    let started = Instant::now();
    rig.threads.stop();
    assert!(started.elapsed() >= END_WAIT, "one thread is busy");
    assert_eq!(rig.threads.alive(), 1);
    drop(release);
    until(|| rig.threads.alive() == 0);
    assert!(!rig.stop.is_asked());
}

#[test]
fn a_job_ends_when_the_host_stops() {
    let rig = Rig::new(1);
    let ((running, runs), (ended, ends)) = (channel(), channel());
    rig.submit(
        Duration::ZERO,
        1,
        job(move |goes_on| {
            running.send(()).unwrap();
            while goes_on(Duration::ZERO) {
                std::thread::yield_now();
            }
            ended.send(()).unwrap();
        }),
    );
    runs.recv_timeout(LONG).unwrap();
    rig.submit(Duration::ZERO, 2, job(|_| panic!("no further job is run")));
    rig.threads.stop();
    ends.recv_timeout(LONG).unwrap();
    assert_eq!(rig.failure.first(), None);
}

/// Threads for lookups, and the fetches that came back.
struct LookupRig {
    threads: LookupThreads<FakeFetch>,
    outbox: Outbox<FakeFetch>,
    finished: Receiver<FakeFetch>,
    stop: Shutdown,
    failure: Failure,
}

impl LookupRig {
    fn new(max_threads: usize, idle_time: Duration) -> Self {
        let stop = Shutdown::default();
        let failure = Failure::new(&stop);
        let threads = LookupThreads::new(max_threads, idle_time, &failure, |fetch: &mut FakeFetch| fetch());
        let (sender, finished) = channel();
        Self { threads, outbox: Outbox::new(sender, Arc::new(|| {})), finished, stop, failure }
    }

    fn fetch(&self, run: impl FnMut() + Send + 'static) {
        self.threads.fetch(Box::new(run), self.outbox.clone());
    }
}

#[test]
fn fetches_do_not_wait_for_each_other() {
    let rig = LookupRig::new(8, LONG);
    let all = Arc::new(Barrier::new(8));
    for _ in 0..8 {
        let all = Arc::clone(&all);
        rig.fetch(move || _ = all.wait());
    }
    drop(next(&rig.finished, 8));
    assert_eq!(rig.threads.threads(), 8);
}

#[test]
fn a_fetch_beyond_the_most_threads_waits_for_another_one() {
    let rig = LookupRig::new(1, LONG);
    let (release, released) = channel::<()>();
    let (ran, order) = channel();
    let ran_first = ran.clone();
    rig.fetch(move || {
        _ = released.recv();
        ran_first.send(1).unwrap();
    });
    rig.fetch(move || ran.send(2).unwrap());
    assert_eq!(rig.threads.threads(), 1);
    drop(release);
    assert_eq!(next(&order, 2), [1, 2]);
}

#[test]
fn an_idle_thread_is_used_again() {
    let rig = LookupRig::new(8, LONG);
    for _ in 0..3 {
        rig.fetch(|| {});
        drop(next(&rig.finished, 1));
        until(|| rig.threads.idle() == 1);
    }
    assert_eq!(rig.threads.threads(), 1);
}

#[test]
fn a_thread_that_was_idle_for_long_ends() {
    let rig = LookupRig::new(8, Duration::from_millis(1));
    rig.fetch(|| {});
    drop(next(&rig.finished, 1));
    until(|| rig.threads.threads() == 0);
    rig.fetch(|| {});
    drop(next(&rig.finished, 1));
}

#[test]
fn no_fetch_is_left_while_threads_end_and_start() {
    let rig = LookupRig::new(2, Duration::from_micros(1));
    for burst in 0..500 {
        for _ in 0..burst % 5 {
            rig.fetch(|| {});
        }
        drop(next(&rig.finished, burst % 5));
        assert!(rig.threads.threads() <= 2);
    }
}

#[test]
fn a_stop_does_not_wait_for_a_fetch() {
    let rig = LookupRig::new(8, LONG);
    let (release, released) = channel::<()>();
    rig.fetch(move || _ = released.recv());
    rig.fetch(|| {});
    drop(next(&rig.finished, 1));
    rig.threads.stop();
    until(|| rig.threads.threads() == 1);
    assert_eq!(rig.finished.try_recv().map(drop), Err(std::sync::mpsc::TryRecvError::Empty));
    drop(release);
    until(|| rig.threads.threads() == 0);
}

#[test]
fn a_panic_in_a_fetch_stops_the_host_with_a_message() {
    let rig = LookupRig::new(8, LONG);
    rig.fetch(|| panic!("this panic is part of a test"));
    assert!(rig.stop.wait(LONG));
    assert_eq!(rig.failure.first().unwrap(), "a thread that waits for lookups panicked");
    assert_eq!(rig.finished.recv_timeout(Duration::ZERO).map(drop), Err(RecvTimeoutError::Timeout));
}
