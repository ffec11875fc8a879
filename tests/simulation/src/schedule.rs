//! One schedule: workers, faults and brokers take turns, in an order that the seed gives, until all inputs are settled.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};
use switchboard_core::record::{HeaderKind, Offset, OutputLimits, OutputRules, TenantHeader, TenantSchema};
use switchboard_core::state::StateLimits;
use switchboard_core::worker::{BatchLimits, FatalError, Next, Partition, StartFrom, Worker, WorkerConfig};

use crate::check::{self, Swaps, Truth};
use crate::client::{Client, Turn, World};
use crate::control::{Control, Reader};
use crate::executors::{Pace, Threads, Wake, Work};
use crate::faults::{FaultCounts, Faults, Kind};
use crate::inputs::{self, Input, TENANT};
use crate::kafka::{ClientId, Cluster, Consumer, Fencing, OFFSET_RETENTION, Place};
use crate::notes::Witness;
use crate::operator::{OUTAGE, Plan};
use crate::plugins::{Loaded, Logic, MORE};

/// A schedule that is not settled after this many turns has failed.
const MOST_TURNS: u32 = 400_000;
/// How long all must stay settled, so that late requests have arrived.
const QUIET: Duration = Duration::from_secs(40);
/// When a slot gets its next process whose last one died for ever.
const NEVER: Duration = Duration::MAX;
/// The bytes of a coroutine's stack.
const STACK: usize = 256 << 10;

/// A process with one worker. It has a stack of its own, so that it can be stopped in the middle of a call.
struct Process {
    id: ClientId,
    slot: usize,
    life: Coroutine<(), Turn, Option<FatalError>, DefaultStack>,
    /// It is not resumed before.
    due: Duration,
    frozen: bool,
    leaving: Rc<Cell<bool>>,
}

/// A slot for a process, which gives the process its identities.
struct Slot {
    /// When its next process starts.
    due: Duration,
    instance: Option<u32>,
}

/// A schedule that kept the promise.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// How many inputs it had.
    pub inputs: usize,
    /// How many turns it took.
    pub turns: u32,
    /// The faults that were made.
    pub faults: FaultCounts,
    /// The changes of releases that were made.
    pub swaps: Swaps,
    /// What executors did.
    pub work: Work,
}

/// Stacks to use again. A schedule takes a few hundred microseconds, and a new stack costs some of them.
#[derive(Default)]
pub struct Stacks(Vec<DefaultStack>);

impl Stacks {
    /// Ends a process wherever it is.
    fn end(&mut self, process: Process) {
        let mut life = process.life;
        life.force_unwind();
        self.0.push(life.into_stack());
    }
}

struct Schedule {
    world: Rc<RefCell<World>>,
    rules: WorkerConfig,
    logic: Logic,
    inputs: Vec<Input>,
    /// The offsets of the inputs that were produced so far.
    offsets: Vec<Offset>,
    /// The next input is not produced before.
    due: Duration,
    /// The mean time between two inputs.
    pace: Duration,
    /// How long all must stay settled.
    quiet: Duration,
    slots: Vec<Slot>,
    processes: Vec<Process>,
    next_client: ClientId,
    /// How long jobs and lookups take.
    job_pace: Pace,
    /// What an operator waits to do. No process starts until it is done.
    plan: Option<Plan>,
}

/// Runs the schedule of a seed.
///
/// # Errors
/// Which part of the promise was broken.
pub fn run(seed: u64, stacks: &mut Stacks) -> Result<Outcome, String> {
    let mut schedule = Schedule::new(seed);
    let mut turns = 0;
    let mut settled_at = None;
    let result = loop {
        turns += 1;
        if turns > MOST_TURNS {
            break Err(schedule.why_stuck());
        }
        if let Err(problem) = schedule.turn(stacks) {
            break Err(problem);
        }
        if turns % 64 == 0 {
            match schedule.is_settled() {
                Err(problem) => break Err(problem),
                Ok(false) => settled_at = None,
                Ok(true) if schedule.repair(stacks) => settled_at = None,
                Ok(true) => {
                    let (now, quiet, busy_until) = {
                        let World { cluster, busy_until, .. } = &*schedule.world.borrow();
                        (cluster.now, cluster.is_quiet(), *busy_until)
                    };
                    // Offsets of idle sources are committed again and again, so the brokers are not at rest all the time.
                    let since = busy_until.max(*settled_at.get_or_insert(now));
                    if quiet && now > since + schedule.quiet {
                        break check::check(&schedule.world.borrow(), &schedule.truth());
                    }
                }
            }
        }
    };
    let (faults, work) = {
        let World { cluster, faults, work, .. } = &*schedule.world.borrow();
        (faults.made, Work { maps: cluster.group.maps, ..*work })
    };
    for process in schedule.processes.drain(..) {
        stacks.end(process);
    }
    result.map(|swaps| Outcome { inputs: schedule.inputs.len(), turns, faults, swaps, work })
}

impl Schedule {
    fn new(seed: u64) -> Self {
        let random = &mut fastrand::Rng::with_seed(seed);
        let logic = if random.u8(0..3) == 0 { Logic::Messenger } else { Logic::Stock };
        let consumes = logic.release(1).manifest.consumes;
        let sources: Vec<Arc<str>> = consumes.iter().map(String::as_str).chain([MORE]).map(Arc::from).collect();
        let (shards, partitions) = (random.u32(1..4), random.i32(1..4));
        // Many inputs take long, and most mistakes show with few.
        let is_large = random.u8(0..32) == 0;
        let tenants = random.u32(if is_large { 4..16 } else { 1..5 });
        let count = random.usize(if is_large { 60..200 } else { 6..40 });
        let inputs = inputs::make(random, logic, &sources, partitions, tenants, count);
        let records = if random.u8(0..4) == 0 { random.usize(6..64) } else { random.usize(1..6) };
        let rules = WorkerConfig {
            app: "app".into(),
            shards,
            tenants: TenantSchema::new(vec![TenantHeader { name: TENANT.into(), kind: HeaderKind::Text }]),
            outputs: OutputRules { carry_headers: Vec::new(), limits: OutputLimits::default() },
            state: StateLimits::default(),
            lookups_a_message: 100,
            lookup_time: Duration::from_mins(1),
            batch: BatchLimits { records, bytes: 1 << 20, time: Duration::from_millis(100) },
            start_from: StartFrom::Earliest,
            offset_renewal: OFFSET_RETENTION / 10,
        };
        let static_members = random.bool();
        let slot = |slot| Slot { due: Duration::ZERO, instance: static_members.then_some(slot) };
        let slots = (0..random.u32(1..4)).map(slot).collect();
        let until = Duration::from_secs(random.u64(5..60));
        let faults = Faults::new(random, until);
        let job_pace = Pace::new(random);
        let control = Control::new(random, logic, tenants, count);
        // All inputs at once, or spread over the time with faults.
        let pace = if random.u8(0..4) == 0 { Duration::ZERO } else { until / u32::try_from(count).expect("few") };
        let fencing = if random.bool() { Fencing::ByGeneration } else { Fencing::ByPartition };
        let partitions = u32::try_from(partitions).expect("a range from 1");
        let cluster = Cluster::new(random.fork(), sources, partitions, rules.shards, fencing);
        // Long enough in some schedules that offsets which are not renewed expire.
        let quiet = if random.u8(0..64) == 0 { 2 * OFFSET_RETENTION } else { QUIET };
        let world = Rc::new(RefCell::new(World::new(cluster, faults, control)));
        Self {
            world,
            rules,
            logic,
            inputs,
            offsets: Vec::new(),
            due: Duration::ZERO,
            pace,
            quiet,
            slots,
            processes: Vec::new(),
            next_client: 0,
            job_pace,
            plan: None,
        }
    }

    fn truth(&self) -> Truth<'_> {
        Truth { logic: self.logic, inputs: &self.inputs, offsets: &self.offsets }
    }

    fn why_stuck(&self) -> String {
        let world = &*self.world.borrow();
        let World { cluster, .. } = world;
        let times = check::settled(world, &self.truth()).unwrap_or_default();
        let place = |id: usize| (id, self.inputs[id].partition, self.offsets[id], self.inputs[id].tenant.as_deref());
        let missing: Vec<_> =
            (0..times.len().min(self.offsets.len())).filter(|id| times[*id] == 0).map(place).collect();
        let (made, quiet, now) = (self.offsets.len(), cluster.is_quiet(), cluster.now);
        let damaged = &cluster.group.damaged;
        let loads: Vec<_> =
            cluster.group.clients.iter().map(|(id, client)| (id, world.notes.loads.get(id), client.paused())).collect();
        format!(
            "not settled after {now:?}: of {made} inputs {missing:?} are missing; damaged: {damaged:?}; the brokers are at rest: \
             {quiet}; the clients, their loads and paused partitions: {loads:?}"
        )
    }

    fn is_settled(&self) -> Result<bool, String> {
        let world = &*self.world.borrow();
        let World { cluster, faults, control, .. } = world;
        let all = self.offsets.len() == self.inputs.len() && faults.are_over(cluster.now);
        let alive = self.processes.iter().all(|process| !process.frozen);
        if !(all && alive && control.is_whole()) {
            return Ok(false);
        }
        let consumed = control.consumed_at_last();
        let is_due = |input: &Input| consumed.contains(input.topic(&cluster.sources));
        let times = check::settled(world, &self.truth())?;
        let waits = |input| is_due(input) && world.is_free(input, self.rules.shards);
        Ok(self.inputs.iter().zip(times).all(|(input, times)| times > 0 || !waits(input)))
    }

    /// Has an operator repair what was damaged. All that it does not hold up is settled. Returns whether there was anything.
    fn repair(&mut self, stacks: &mut Stacks) -> bool {
        if self.world.borrow().originals.is_empty() {
            return false;
        }
        self.stop_all(Plan::Repair, stacks);
        true
    }

    /// Stops all processes, so that an operator may do something.
    fn stop_all(&mut self, plan: Plan, stacks: &mut Stacks) {
        for process in self.processes.drain(..) {
            let cluster = &mut self.world.borrow_mut().cluster;
            tracing::trace!(client = process.id, now = ?cluster.now, "stopped for the operator");
            cluster.group.clients.remove(&process.id);
            self.slots[process.slot].due = cluster.now + OUTAGE;
            stacks.end(process);
        }
        self.plan = Some(plan);
    }

    /// What no worker may do, if one did it.
    fn problem(&self) -> Result<(), String> {
        let World { cluster, problem, .. } = &*self.world.borrow();
        problem.as_ref().or(cluster.group.problem.as_ref()).map_or(Ok(()), |problem| Err(problem.clone()))
    }

    /// One turn: brokers, the producer of inputs, faults and one worker may each do something.
    fn turn(&mut self, stacks: &mut Stacks) -> Result<(), String> {
        self.world.borrow_mut().cluster.tick();
        self.produce();
        let done = self.plan.is_some_and(|plan| self.world.borrow_mut().operate(plan, &self.truth()));
        self.plan.take_if(|_| done);
        self.problem()?;
        self.start_processes(stacks);
        self.strike(stacks);
        let now = self.world.borrow().cluster.now;
        let ready: Vec<_> = (0..self.processes.len()).filter(|place| self.processes[*place].due <= now).collect();
        let chosen = self.world.borrow_mut().cluster.random.choice(ready);
        let Some(place) = chosen else {
            self.pass_time();
            return Ok(());
        };
        let process = &mut self.processes[place];
        if process.frozen {
            process.frozen = false;
            self.world.borrow_mut().cluster.group.client(process.id).frozen = false;
        }
        let turn = process.life.resume(());
        let cluster = &mut self.world.borrow_mut().cluster;
        // Calls take time.
        cluster.now += Duration::from_micros(cluster.random.u64(0..2000));
        match turn {
            CoroutineResult::Yield(Turn::Call) => {}
            CoroutineResult::Yield(Turn::Wait(wait)) => process.due = cluster.now + wait,
            CoroutineResult::Return(stop) => {
                let process = self.processes.swap_remove(place);
                tracing::trace!(client = process.id, now = ?cluster.now, "ended: {stop:?}");
                if let Some(FatalError::DeadLettersRefused(why)) = stop {
                    return Err(format!("a worker stopped: {why}"));
                }
                cluster.group.clients.remove(&process.id);
                // Its supervisor starts it again, unless it has a successor already.
                let slot = &mut self.slots[process.slot];
                slot.due = slot.due.max(cluster.now + Duration::from_secs(1));
                stacks.0.push(process.life.into_stack());
            }
        }
        Ok(())
    }

    /// No process has anything to do. Moves time towards the moment when one has.
    fn pass_time(&mut self) {
        let cluster = &mut self.world.borrow_mut().cluster;
        let waiting = self.processes.iter().map(|process| process.due);
        let empty = (0..self.slots.len()).filter(|slot| self.processes.iter().all(|process| process.slot != *slot));
        let starts = empty.map(|slot| self.slots[slot].due);
        let next = waiting.chain(starts).filter(|due| *due > cluster.now).min().unwrap_or(cluster.now);
        // In small steps, so that the brokers' background work goes on too.
        cluster.now = next.min(cluster.now + Duration::from_millis(20)).max(cluster.now + Duration::from_millis(1));
    }

    fn produce(&mut self) {
        let World { cluster, control, faults, .. } = &mut *self.world.borrow_mut();
        control.write(self.offsets.len());
        let Some(input) = self.inputs.get(self.offsets.len()) else { return };
        if cluster.now < self.due || cluster.random.u8(0..16) > 0 {
            return;
        }
        self.due = cluster.now + self.pace.mul_f64(2.0 * cluster.random.f64());
        if let Partition::Source { topic, index } = input.partition {
            // The topic gets the partition when a record is sent there.
            let count = &mut cluster.partition_counts[topic];
            *count = (*count).max(u32::try_from(index.get()).expect("never negative") + 1);
        }
        let place = Place::Consumed(input.partition);
        // Transactions of other applications: committed, aborted, and open for a while.
        if faults.strikes(Kind::OpenSource, cluster) {
            cluster.append_open(place, input.record.clone(), false);
        }
        let offset = if faults.strikes(Kind::OpenSource, cluster) {
            cluster.append_open(place, input.record.clone(), true)
        } else {
            cluster.log(place).append(None, input.record.clone())
        };
        self.offsets.push(offset);
    }

    fn start_processes(&mut self, stacks: &mut Stacks) {
        if self.plan.is_some() {
            return;
        }
        let now = self.world.borrow().cluster.now;
        for slot in 0..self.slots.len() {
            if self.slots[slot].due <= now && self.processes.iter().all(|process| process.slot != slot) {
                self.start(slot, stacks);
            }
        }
    }

    fn start(&mut self, slot: usize, stacks: &mut Stacks) {
        let (id, instance) = (self.next_client, self.slots[slot].instance);
        self.next_client += 1;
        self.world.borrow_mut().cluster.group.clients.insert(id, Consumer::new(instance));
        let (world, rules, logic) = (Rc::clone(&self.world), self.rules.clone(), self.logic);
        let job_pace = self.job_pace;
        let leaving = Rc::new(Cell::new(false));
        let leaves = Rc::clone(&leaving);
        let transactional_id = u32::try_from(slot).expect("few slots");
        let stack = stacks.0.pop().unwrap_or_else(|| DefaultStack::new(STACK).expect("memory for a stack"));
        let life = Coroutine::with_stack(stack, move |turn, ()| {
            let wake = Wake::default();
            let broker = Client::new(Rc::clone(&world), turn, id, transactional_id, wake.clone());
            let random = world.borrow_mut().cluster.random.fork();
            let threads = Threads::new(Rc::clone(&world), id, rules.shards, job_pace, random, wake);
            let reader = {
                let World { cluster, faults, .. } = &mut *world.borrow_mut();
                Reader::new(id, faults, cluster)
            };
            let plugins = Loaded::new(Rc::clone(&world), logic, reader);
            let witness = Witness { world: Rc::clone(&world), id };
            let mut worker = Worker::new(rules, id.into(), broker, plugins, threads, witness);
            let mut stepped_at = Duration::MAX;
            loop {
                match worker.step() {
                    // A worker that did not wait for anything does not stop time.
                    Ok(Next::Now) if world.borrow().cluster.now == stepped_at => {
                        turn.suspend(Turn::Call);
                    }
                    Ok(Next::Now) => {}
                    Ok(Next::After(pause)) => turn.suspend(Turn::Wait(pause)),
                    Err(stop) => return Some(stop),
                }
                stepped_at = world.borrow().cluster.now;
                if leaves.get() {
                    let Cluster { group, random, .. } = &mut world.borrow_mut().cluster;
                    group.leave(id, random);
                    return None;
                }
            }
        });
        tracing::trace!(client = id, slot, "started");
        self.processes.push(Process { id, slot, life, due: Duration::ZERO, frozen: false, leaving });
    }

    /// Whether the schedule has a fault now.
    fn struck(&self, kind: Kind) -> bool {
        let World { cluster, faults, .. } = &mut *self.world.borrow_mut();
        faults.strikes(kind, cluster)
    }

    /// Faults of whole processes and brokers.
    fn strike(&mut self, stacks: &mut Stacks) {
        self.strike_brokers();
        for (kind, plan) in [(Kind::Damage, Plan::Damage), (Kind::Reset, Plan::Reset)] {
            if self.plan.is_none() && self.struck(kind) {
                self.stop_all(plan, stacks);
            }
        }
        if !self.processes.is_empty() {
            self.strike_process(stacks);
        }
    }

    fn strike_brokers(&self) {
        if self.struck(Kind::Rebalance) {
            let Cluster { group, random, .. } = &mut self.world.borrow_mut().cluster;
            group.rebalance(random);
        }
        if self.struck(Kind::Kick) {
            let Cluster { group, random, .. } = &mut self.world.borrow_mut().cluster;
            group.kick(random);
        }
        if self.struck(Kind::Compaction) {
            let Cluster { logs, random, .. } = &mut self.world.borrow_mut().cluster;
            let changelogs: Vec<_> =
                logs.keys().copied().filter(|place| matches!(place, Place::Changelog(_))).collect();
            if let Some(place) = random.choice(changelogs) {
                logs.get_mut(&place).expect("chosen among them").compact();
            }
        }
        if self.struck(Kind::Purge) {
            let Cluster { logs, random, group, .. } = &mut self.world.borrow_mut().cluster;
            let shard = Partition::Shard(random.u32(0..self.rules.shards).try_into().expect("few shards"));
            if let Some([Some(offset)]) = group.stable_offsets(&[shard]).as_deref() {
                logs.get_mut(&Place::Consumed(shard)).expect("all places have a log").delete_before(offset.offset);
            }
        }
    }

    fn strike_process(&mut self, stacks: &mut Stacks) {
        let victim = self.world.borrow_mut().cluster.random.usize(0..self.processes.len());
        if self.struck(Kind::Leave) {
            self.processes[victim].leaving.set(true);
        }
        if self.struck(Kind::Freeze) {
            let slot = self.processes[victim].slot;
            let twin = self.processes.iter().filter(|other| other.slot == slot).count() == 1 && self.struck(Kind::Twin);
            let World { cluster, .. } = &mut *self.world.borrow_mut();
            let longest = cluster.random.choice([500, 12_000, 30_000]).expect("not empty");
            let process = &mut self.processes[victim];
            tracing::trace!(client = process.id, now = ?cluster.now, "stopped");
            process.frozen = true;
            process.due = cluster.now + Duration::from_millis(cluster.random.u64(0..longest));
            cluster.group.client(process.id).frozen = true;
            if !twin {
                return;
            }
        } else if self.struck(Kind::Crash) {
            let dies = self.struck(Kind::Death);
            let process = self.processes.swap_remove(victim);
            let cluster = &mut self.world.borrow_mut().cluster;
            tracing::trace!(client = process.id, now = ?cluster.now, "killed");
            cluster.group.clients.remove(&process.id);
            let down = if cluster.random.bool() { 20 } else { 15_000 };
            self.slots[process.slot].due = cluster.now + Duration::from_millis(cluster.random.u64(0..down));
            // One slot has to go on.
            if self.slots.iter().filter(|slot| slot.due < NEVER).count() > 1 && dies {
                self.slots[process.slot].due = NEVER;
            }
            stacks.end(process);
            return;
        } else {
            return;
        }
        self.start(self.processes[victim].slot, stacks);
    }
}
