//! Kafka in memory: logs, committed offsets, one open transaction. A script makes calls fail.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use switchboard_core::record::{Offset, Record, ShardId};
use switchboard_core::worker::{
    Changelog, Clock, Consumed, Consumer, Destination, Event, Fault, GroupOffset, NotNow, Partition, Producer,
    Restored, Start,
};

/// What a failing call does to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The request never arrived.
    None,
    /// The request had its effect. Only the answer is lost.
    Done,
}

struct Script {
    call: &'static str,
    times: usize,
    effect: Effect,
    fault: Fault,
}

/// A changelog's record: key and value.
pub(crate) type Entry = (Vec<u8>, Option<Vec<u8>>);

#[derive(Debug, Clone, Default)]
struct Open {
    records: Vec<(String, Record)>,
    offsets: BTreeMap<Partition, GroupOffset>,
}

/// What tests set up and look at.
pub(crate) struct Kafka {
    pub(crate) now: Duration,
    /// The calls in their order, without polls and without questions about the client itself.
    pub(crate) calls: Vec<String>,
    scripts: Vec<Script>,
    /// Events that arrive before any further record.
    pub(crate) events: VecDeque<Event>,
    /// The shards that a member gets when it joins.
    pub(crate) assignment: Vec<ShardId>,
    /// The number of partitions of each source topic, by the index of its alias.
    pub(crate) partition_counts: Vec<u32>,
    pub(crate) logs: BTreeMap<Partition, Vec<Record>>,
    pub(crate) log_starts: BTreeMap<Partition, Offset>,
    pub(crate) committed: BTreeMap<Partition, Offset>,
    /// The metadata of committed offsets. A test that sets an offset leaves it empty, as an operator's tool does.
    pub(crate) metadata: BTreeMap<Partition, String>,
    /// The offset to fetch next, and whether the partition is paused.
    positions: BTreeMap<Partition, (Offset, bool)>,
    pub(crate) changelogs: BTreeMap<ShardId, Vec<Entry>>,
    /// The number of records of a predecessor's open transaction in each changelog.
    pub(crate) unstable: BTreeMap<ShardId, usize>,
    restoring: BTreeMap<ShardId, usize>,
    /// The outputs and dead letters that read_committed readers see, with their destinations.
    pub(crate) visible: Vec<(String, Record)>,
    open: Option<Open>,
    pub(crate) epoch: u32,
    pub(crate) live: bool,
    pub(crate) suspect: bool,
    /// Questions about these partitions get no answer.
    pub(crate) silent: Vec<Partition>,
    /// The broker refuses records of this destination whose values contain this text.
    pub(crate) refuses: Vec<(&'static str, &'static str)>,
    /// The group refuses all offsets of a transaction that has one of this partition.
    pub(crate) refuses_offsets: Option<(Partition, Fault)>,
    /// How long that takes.
    pub(crate) refusal_takes: Duration,
}

impl Kafka {
    pub(crate) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            calls: Vec::new(),
            scripts: Vec::new(),
            events: VecDeque::new(),
            assignment: Vec::new(),
            partition_counts: Vec::new(),
            logs: BTreeMap::new(),
            log_starts: BTreeMap::new(),
            committed: BTreeMap::new(),
            metadata: BTreeMap::new(),
            positions: BTreeMap::new(),
            changelogs: BTreeMap::new(),
            unstable: BTreeMap::new(),
            restoring: BTreeMap::new(),
            visible: Vec::new(),
            open: None,
            epoch: 0,
            live: true,
            suspect: false,
            silent: Vec::new(),
            refuses: Vec::new(),
            refuses_offsets: None,
            refusal_takes: Duration::ZERO,
        }
    }

    /// The next calls of this name fail, this many times.
    pub(crate) fn fail(&mut self, call: &'static str, times: usize, effect: Effect, fault: Fault) {
        self.scripts.push(Script { call, times, effect, fault });
    }

    pub(crate) fn heal(&mut self) {
        self.scripts.clear();
    }

    /// A predecessor with the same transactional id died with these offsets pending.
    pub(crate) fn leave_open(&mut self, offsets: &[(Partition, Offset)]) {
        self.open = Some(Open {
            records: Vec::new(),
            offsets: offsets
                .iter()
                .map(|(partition, offset)| (*partition, GroupOffset { offset: *offset, metadata: String::new() }))
                .collect(),
        });
    }

    /// How many calls there were, and how many records were read.
    pub(crate) fn progress(&self) -> (usize, i64) {
        (self.calls.len(), self.positions.values().map(|(offset, _)| offset.get()).sum())
    }

    /// How far a partition has been read.
    pub(crate) fn position(&self, partition: Partition) -> i64 {
        self.positions[&partition].0.get()
    }

    fn end(&self, partition: Partition) -> Offset {
        Offset::try_from(self.logs.get(&partition).map_or(0, Vec::len)).unwrap()
    }

    fn start(&self, partition: Partition) -> Offset {
        self.log_starts.get(&partition).copied().unwrap_or_default()
    }

    /// Notes a call, and returns what its script says. A scripted call takes a second.
    fn call(&mut self, name: &str, detail: &str) -> Option<(Effect, Fault)> {
        self.calls.push(format!("{name} {detail}").trim_end().to_owned());
        let script = self.scripts.iter_mut().find(|script| script.call == name && script.times > 0)?;
        script.times -= 1;
        self.now += Duration::from_secs(1);
        Some((script.effect, script.fault.clone()))
    }

    fn ask(&mut self, name: &str, detail: &str) -> Result<(), NotNow> {
        self.call(name, detail).map_or(Ok(()), |(_, fault)| Err(NotNow(fault.to_string().into())))
    }

    /// A call that changes the open transaction.
    fn transact(&mut self, name: &str, detail: &str, effect: impl FnOnce(&mut Self)) -> Result<(), Fault> {
        match self.call(name, detail) {
            None => effect(self),
            Some((does, fault)) => {
                if does == Effect::Done {
                    effect(self);
                }
                return Err(fault);
            }
        }
        Ok(())
    }

    fn open(&mut self) -> &mut Open {
        self.open.as_mut().expect("only within a transaction")
    }

    fn commit_open(&mut self) {
        let Open { records, offsets } = self.open.take().expect("only within a transaction");
        for (partition, GroupOffset { offset, metadata }) in offsets {
            self.committed.insert(partition, offset);
            self.metadata.insert(partition, metadata);
        }
        for (destination, record) in records {
            match destination
                .split_once(' ')
                .map(|(kind, index)| (kind, ShardId::try_from(index.parse::<i32>().unwrap()).unwrap()))
            {
                Some(("shard", index)) => self.logs.entry(Partition::Shard(index)).or_default().push(record),
                Some(("changelog", index)) => {
                    self.changelogs.entry(index).or_default().push((record.key.unwrap(), record.value));
                }
                _ => self.visible.push((destination, record)),
            }
        }
    }

    fn refused(&self) -> Option<Fault> {
        let open = self.open.as_ref()?;
        let text = |record: &Record| String::from_utf8_lossy(record.value.as_deref().unwrap_or(b"null")).into_owned();
        let is_refused = |(destination, record): &(String, Record)| {
            self.refuses.iter().any(|(to, what)| destination.starts_with(to) && text(record).contains(what))
        };
        open.records.iter().any(is_refused).then(|| Fault::Refused("too large".into()))
    }
}

/// The broker that the worker gets.
pub(crate) struct FakeBroker(pub(crate) Rc<RefCell<Kafka>>);

pub(crate) fn name(partition: Partition) -> String {
    match partition {
        Partition::Source { topic: 0, index } => format!("source-{index}"),
        Partition::Source { topic, index } => format!("source-{topic}-{index}"),
        Partition::Shard(index) => format!("shard-{index}"),
    }
}

fn names(partitions: impl IntoIterator<Item = Partition>) -> String {
    partitions.into_iter().map(name).collect::<Vec<_>>().join(" ")
}

fn shard_names(shards: &[ShardId]) -> String {
    names(shards.iter().copied().map(Partition::Shard))
}

impl Clock for FakeBroker {
    fn now(&self) -> Duration {
        self.0.borrow().now
    }
}

impl Consumer for FakeBroker {
    fn join(&mut self) -> Result<(), Fault> {
        self.0.borrow_mut().transact("join", "", |kafka| {
            let assigned = Event::Assigned(kafka.assignment.clone());
            kafka.events.push_back(assigned);
        })
    }

    fn leave(&mut self) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("leave", "");
        kafka.positions.clear();
        kafka.restoring.clear();
        kafka.live = true;
        kafka.events.clear();
    }

    fn consume(&mut self, aliases: &[Arc<str>], consumed: &[usize]) {
        let consumed: Vec<_> = consumed.iter().map(|topic| &*aliases[*topic]).collect();
        self.0.borrow_mut().call("consume", &consumed.join(" "));
    }

    fn partition_count(&mut self, topic: usize) -> u32 {
        self.0.borrow().partition_counts.get(topic).copied().unwrap_or(0)
    }

    fn poll(&mut self, wait: Duration) -> Event {
        let kafka = &mut *self.0.borrow_mut();
        if let Some(event) = kafka.events.pop_front() {
            return event;
        }
        for (partition, (offset, paused)) in &mut kafka.positions {
            let record = kafka.logs.get(partition).and_then(|log| log.get(usize::try_from(offset.get()).unwrap()));
            if let (false, Some(record)) = (*paused, record) {
                let read = std::mem::replace(offset, offset.next());
                return Event::Record(Consumed { partition: *partition, offset: read, record: record.clone() });
            }
        }
        kafka.now += wait;
        Event::Nothing
    }

    fn stable_offsets(&mut self, partitions: &[Partition]) -> Result<Vec<Option<GroupOffset>>, NotNow> {
        let kafka = &mut *self.0.borrow_mut();
        kafka.ask("stable_offsets", &names(partitions.iter().copied()))?;
        if partitions.iter().any(|partition| kafka.silent.contains(partition)) {
            return Err(NotNow("no answer".into()));
        }
        let pending: BTreeSet<_> = kafka.open.iter().flat_map(|open| open.offsets.keys()).collect();
        if partitions.iter().any(|partition| pending.contains(partition)) {
            return Err(NotNow("pending in an open transaction".into()));
        }
        let committed = |partition| {
            let metadata = kafka.metadata.get(partition).cloned().unwrap_or_default();
            kafka.committed.get(partition).map(|offset| GroupOffset { offset: *offset, metadata })
        };
        Ok(partitions.iter().map(committed).collect())
    }

    fn log_bounds(&mut self, partition: Partition) -> Result<Range<Offset>, NotNow> {
        let kafka = &mut *self.0.borrow_mut();
        kafka.ask("log_bounds", &name(partition))?;
        Ok(kafka.start(partition)..kafka.end(partition))
    }

    fn accept_assignment(&mut self) {
        self.0.borrow_mut().call("accept_assignment", "");
    }

    fn give_back(&mut self, shards: &[ShardId]) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("give_back", &shard_names(shards));
        kafka.positions.retain(|partition, _| !matches!(partition, Partition::Shard(shard) if shards.contains(shard)));
    }

    fn start(&mut self, starts: &[Start]) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("start", &names(starts.iter().map(|start| start.partition)));
        for Start { partition, offset, paused } in starts {
            kafka.positions.insert(*partition, (*offset, *paused));
        }
    }

    fn stop(&mut self, sources: &[Partition]) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("stop", &names(sources.iter().copied()));
        kafka.positions.retain(|partition, _| !sources.contains(partition));
    }

    fn pause(&mut self, partitions: &[Partition]) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("pause", &names(partitions.iter().copied()));
        for partition in partitions {
            kafka.positions.get_mut(partition).expect("only what is assigned").1 = true;
        }
    }

    fn resume(&mut self, partitions: &[Partition]) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("resume", &names(partitions.iter().copied()));
        for partition in partitions {
            kafka.positions.get_mut(partition).expect("only what is assigned").1 = false;
        }
    }

    fn seek(&mut self, partition: Partition, offset: Offset) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("seek", &format!("{}@{offset}", name(partition)));
        kafka.positions.get_mut(&partition).expect("only what is assigned").0 = offset;
    }
}

impl Changelog for FakeBroker {
    fn changelog_end(&mut self, shard: ShardId) -> Result<Offset, NotNow> {
        let kafka = &mut *self.0.borrow_mut();
        kafka.ask("changelog_end", &shard.to_string())?;
        let stable = kafka.changelogs.get(&shard).map_or(0, Vec::len);
        Ok(Offset::try_from(stable + kafka.unstable.get(&shard).copied().unwrap_or(0)).unwrap())
    }

    fn changelog_stable_bounds(&mut self, shard: ShardId) -> Result<Range<Offset>, NotNow> {
        let kafka = &mut *self.0.borrow_mut();
        kafka.ask("changelog_stable_bounds", &shard.to_string())?;
        Ok(Offset::ZERO..Offset::try_from(kafka.changelogs.get(&shard).map_or(0, Vec::len)).unwrap())
    }

    fn start_restore(&mut self, shard: ShardId, bounds: Range<Offset>) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("start_restore", &shard.to_string());
        kafka.restoring.insert(shard, usize::try_from(bounds.start.get()).unwrap());
    }

    fn poll_restore(&mut self, wait: Duration) -> Restored {
        let kafka = &mut *self.0.borrow_mut();
        if kafka.ask("poll_restore", "").is_err() {
            return Restored::Nothing;
        }
        kafka.calls.pop();
        let Some((shard, position)) = kafka.restoring.iter_mut().next() else {
            kafka.now += wait;
            return Restored::Nothing;
        };
        let shard = *shard;
        let record = kafka.changelogs.get(&shard).and_then(|log| log.get(*position)).cloned();
        *position += 1;
        match record {
            Some((key, value)) => {
                kafka.call("restored", &shard.to_string());
                Restored::Record { shard, key, value }
            }
            None => Restored::End { shard },
        }
    }

    fn stop_restore(&mut self, shard: ShardId) {
        let kafka = &mut *self.0.borrow_mut();
        kafka.call("stop_restore", &shard.to_string());
        kafka.restoring.remove(&shard);
    }
}

impl Producer for FakeBroker {
    fn is_live_member(&self) -> bool {
        self.0.borrow().live
    }

    fn producer_is_suspect(&self) -> bool {
        self.0.borrow().suspect
    }

    fn renew_producer(&mut self) -> Result<(), Fault> {
        self.0.borrow_mut().transact("renew", "", |kafka| {
            kafka.open = None;
            kafka.epoch += 1;
            kafka.suspect = false;
        })
    }

    fn drop_producer(&mut self) {
        self.0.borrow_mut().call("drop_producer", "");
    }

    fn begin(&mut self) -> Result<(), Fault> {
        self.0.borrow_mut().transact("begin", "", |kafka| {
            assert!(kafka.open.is_none(), "a transaction is open already");
            kafka.open = Some(Open::default());
        })
    }

    fn send(&mut self, destination: Destination<'_>, record: &Record) -> Result<(), Fault> {
        let destination = match destination {
            Destination::Output(topic) => topic.to_owned(),
            Destination::Shard(index) => format!("shard {index}"),
            Destination::Changelog(index) => format!("changelog {index}"),
            Destination::DeadLetters => "dead-letters".to_owned(),
        };
        let sent = (destination.clone(), record.clone());
        self.0.borrow_mut().transact("send", &destination, |kafka| kafka.open().records.push(sent))
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let kafka = &mut *self.0.borrow_mut();
        kafka.transact("flush", "", |_| ())?;
        kafka.refused().map_or(Ok(()), Err)
    }

    fn send_offsets(&mut self, offsets: &[(Partition, GroupOffset)]) -> Result<(), Fault> {
        let describe = |(partition, GroupOffset { offset, metadata }): &(Partition, GroupOffset)| {
            // Only the offset of a halted partition is sent as others left it.
            let map = metadata.strip_prefix("v=1,n=0").or(metadata.strip_prefix("v=1"));
            let map = map.map_or_else(|| format!(" {metadata:?}"), str::to_owned);
            format!("{}@{offset}{map}", name(*partition))
        };
        let detail: Vec<_> = offsets.iter().map(describe).collect();
        let kafka = &mut *self.0.borrow_mut();
        let refused = kafka.refuses_offsets.clone();
        let refused = refused.filter(|(refused, _)| offsets.iter().any(|(partition, _)| partition == refused));
        kafka.transact("send_offsets", &detail.join(" "), |kafka| {
            if refused.is_none() {
                kafka.open().offsets.extend(offsets.iter().cloned());
            }
        })?;
        let Some((_, fault)) = refused else { return Ok(()) };
        kafka.now += kafka.refusal_takes;
        Err(fault)
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.0.borrow_mut().transact("commit", "", Kafka::commit_open)
    }

    fn abort(&mut self) -> Result<(), Fault> {
        self.0.borrow_mut().transact("abort", "", |kafka| kafka.open = None)
    }
}
