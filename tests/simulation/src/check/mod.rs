//! Whether the promise was kept: the outputs, state changes, dead letter and offset of each input exactly once, in order,
//! by the release that its tenant's route names.

mod swaps;

use std::collections::BTreeMap;

use switchboard_core::record::{Class, Coordinates, HEADER_PREFIX, Offset, Record, TenantId};
use switchboard_core::routing::LastRun;
use switchboard_core::state::decode_key;
use switchboard_core::worker::{Load, Partition};
use switchboard_sdk::testkit::Bench;

use crate::client::World;
use crate::faults::Kind;
use crate::inputs::{Input, TENANT};
use crate::kafka::{Cluster, Group, Place};
use crate::plugins::{Logic, ORDER, directory};
use swaps::{History, Step};

pub use swaps::Swaps;

/// What a schedule was given.
pub(crate) struct Truth<'a> {
    pub(crate) logic: Logic,
    /// By id.
    pub(crate) inputs: &'a [Input],
    /// The offset of each, by id.
    pub(crate) offsets: &'a [Offset],
}

impl Truth<'_> {
    /// The input with this origin.
    fn find(&self, cluster: &Cluster, origin: &Coordinates) -> Option<usize> {
        let wanted = (cluster.source(origin)?, origin.offset);
        self.inputs.iter().zip(self.offsets).position(|(input, offset)| (input.partition, *offset) == wanted)
    }
}

/// An output as a reader sees it: topic and value.
type Seen = (String, Option<Vec<u8>>);

/// How often each input is settled: as outputs or a dead letter that a read_committed reader sees, or as a record that its
/// tenant's release does not consume.
pub(crate) fn settled(world: &World, truth: &Truth<'_>) -> Result<Vec<u32>, String> {
    let World { cluster, .. } = world;
    let mut times = vec![0; truth.inputs.len()];
    for (_, record) in cluster.logs[&Place::Outputs].committed() {
        if header(record, "topic") == Some(ORDER) {
            times[order(record)?.id] += 1;
        }
    }
    for (_, record) in cluster.logs[&Place::DeadLetters].committed() {
        times[input_of_dead_letter(record, cluster, truth)?] += 1;
    }
    for id in swaps::skipped(world, truth) {
        times[id] += 1;
    }
    Ok(times)
}

/// # Errors
/// What of the promise was broken.
pub(crate) fn check(world: &World, truth: &Truth<'_>) -> Result<Swaps, String> {
    let World { cluster, .. } = world;
    check_times(world, truth)?;
    let mut outputs: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
    let mut orders: BTreeMap<&str, Vec<Step>> = BTreeMap::new();
    for (_, record) in cluster.logs[&Place::Outputs].committed() {
        let (tenant, topic) = (header(record, TENANT).unwrap_or_default(), header(record, "topic").unwrap_or_default());
        outputs.entry(tenant).or_default().push((topic.to_owned(), record.value.clone()));
        if topic == ORDER {
            let Order { number, id, release } = order(record)?;
            let order = orders.entry(tenant).or_default();
            order.push(Step::Handled { id, release });
            if number != order.len() {
                return Err(format!("{tenant}: number {number} comes as the {}th", order.len()));
            }
        }
    }
    let mut state: BTreeMap<TenantId, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    for (place, log) in &cluster.logs {
        let Place::Changelog(_) = place else { continue };
        for (_, record) in log.committed() {
            let (tenant, key) =
                decode_key(record.key.as_deref().unwrap_or_default()).map_err(|error| error.to_string())?;
            let state = state.entry(TenantId::new(tenant)).or_default();
            match &record.value {
                Some(value) => state.insert(key.to_owned(), value.clone()),
                None => state.remove(key),
            };
        }
    }
    let mut swaps = Swaps { waits: world.notes.waits, ..Swaps::default() };
    for (tenant, history) in swaps::history(world, truth, &mut swaps)? {
        let tenant = tenant.as_str();
        let handled = history.steps.iter().copied().filter(|step| matches!(step, Step::Handled { .. }));
        let (handled, order) = (handled.collect::<Vec<_>>(), orders.remove(tenant).unwrap_or_default());
        if handled != order {
            return Err(format!("{tenant}: the outputs say {order:?}, and it was {handled:?}"));
        }
        let mut last = BTreeMap::new();
        for id in &history.called {
            let (partition, offset) = (truth.inputs[*id].partition, truth.offsets[*id]);
            let earlier = last.insert(partition, offset);
            if earlier.is_some_and(|earlier| earlier > offset) && !world.again.contains(id) {
                return Err(format!("{tenant}: input {id} of {partition:?} was overtaken"));
            }
        }
        let state = state.remove(tenant).unwrap_or_default();
        replay(world, truth, &history, &outputs.remove(tenant).unwrap_or_default(), state)
            .map_err(|problem| format!("{tenant}: {problem}"))?;
    }
    if let Some((tenant, _)) = orders.first_key_value() {
        return Err(format!("{tenant}: there are outputs that nothing made"));
    }
    state.retain(|_, entries| !entries.is_empty());
    if let Some((tenant, entries)) = state.first_key_value() {
        return Err(format!("{tenant}: the state has {entries:?}, which nothing put there"));
    }
    check_ends(world)?;
    check_loads(world)?;
    Ok(swaps)
}

/// Each input is settled once, if its offset says that it is settled.
fn check_times(world: &World, truth: &Truth<'_>) -> Result<(), String> {
    for (id, times) in settled(world, truth)?.into_iter().enumerate() {
        let Input { partition, tenant, .. } = &truth.inputs[id];
        // Inputs of a topic that no release consumes any more may be left. The group may have forgotten its offset.
        // Some of them may be settled beyond its offset.
        let Group { committed, expired, .. } = &world.cluster.group;
        let offset = committed.get(partition).or(expired.get(partition)).map(|offset| offset.offset);
        let consumed = offset.unwrap_or_default() > truth.offsets[id];
        let is_right = match times {
            0 => !consumed,
            1 => true,
            _ => world.again.contains(&id),
        };
        if !is_right {
            return Err(format!("input {id} of {tenant:?}, {partition:?}, is there {times} times"));
        }
    }
    Ok(())
}

/// Runs a tenant's messages natively, in the order in which they were handled, by the same releases. Outputs and state must
/// be the same.
fn replay(
    World { cluster, faults, .. }: &World,
    truth: &Truth<'_>,
    history: &History,
    outputs: &[Seen],
    mut state: BTreeMap<String, Vec<u8>>,
) -> Result<(), String> {
    let mut bench = Bench { answers: directory(), ..Bench::default() };
    let mut expected = Vec::new();
    for step in &history.steps {
        match *step {
            Step::Migrated { from, release } => truth.logic.replay_migration(release, &mut bench, from)?,
            Step::Handled { id, release } => {
                let message = truth.inputs[id].message(&cluster.sources);
                let sent = truth.logic.replay(release, &mut bench, &message);
                let sent = sent.map_err(|rejection| format!("input {id} was to be rejected: {rejection:?}"))?;
                expected.extend(sent.into_iter().map(|output| (output.topic, output.value)));
            }
            Step::Rejected { id, release, class } => {
                let input = &truth.inputs[id];
                let message = input.message(&cluster.sources);
                let is_right = match class {
                    Class::Invalid => truth.logic.replay(release, &mut bench.clone(), &message).is_err(),
                    Class::Output => input.is_refused(),
                    Class::Lookup => faults.has_made(Kind::Lookup),
                    _ => false,
                };
                if !is_right {
                    return Err(format!("input {id} is a dead letter of class {class}, for no reason"));
                }
            }
        }
    }
    if expected != outputs {
        let place = expected.iter().zip(outputs).position(|(a, b)| a != b).unwrap_or(expected.len().min(outputs.len()));
        return Err(format!(
            "output {place} is {}, not {}; {} and not {} in all",
            show(outputs.get(place)),
            show(expected.get(place)),
            outputs.len(),
            expected.len()
        ));
    }
    let ran = state.remove(LastRun::KEY).and_then(|entry| LastRun::decode(&entry));
    if ran != history.ran {
        return Err(format!("the state says that it ran under {ran:?}, not {:?}", history.ran));
    }
    let keys = state.keys().chain(bench.state.0.keys());
    match keys.into_iter().find(|key| state.get(*key) != bench.state.0.get(*key)) {
        Some(key) => {
            let show = |value: Option<&Vec<u8>>| value.map(|value| String::from_utf8_lossy(value).into_owned());
            Err(format!("the state has {:?} at {key}, not {:?}", show(state.get(key)), show(bench.state.0.get(key))))
        }
        None => Ok(()),
    }
}

/// In the time without faults, every direct path has opened, and nothing is left to do.
fn check_loads(World { cluster, notes, .. }: &World) -> Result<(), String> {
    for (client, consumer) in &cluster.group.clients {
        let load = notes.loads.get(client).copied().unwrap_or_default();
        let Load { direct_paths: open, queued, jobs, fetches, waiting_tenants, results, .. } = load;
        if open < consumer.path_count() {
            return Err(format!("client {client}: {open} of {} direct paths are open", consumer.path_count()));
        }
        if [queued, jobs, fetches, waiting_tenants, results] != [0; 5] {
            return Err(format!("client {client} has something to do: {load:?}"));
        }
    }
    Ok(())
}

/// The offsets are at the ends of the logs, and no transaction is open.
fn check_ends(World { cluster, control, .. }: &World) -> Result<(), String> {
    let still = control.consumed_at_last();
    for (place, log) in &cluster.logs {
        if log.stable_end() != log.high_watermark() {
            return Err(format!("a transaction is left open in {place:?}"));
        }
        let Place::Consumed(partition) = place else { continue };
        let committed = cluster.group.committed.get(partition).map(|offset| offset.offset).unwrap_or_default();
        let is_read = match partition {
            Partition::Source { topic, .. } => still.contains(&cluster.sources[*topic]),
            Partition::Shard(_) => true,
        };
        if let Some((offset, _)) = log.read(committed).filter(|_| is_read) {
            return Err(format!("{partition:?}: the record at {offset} is not consumed, the offset is {committed}"));
        }
        if committed > log.high_watermark() {
            return Err(format!("{partition:?}: the offset {committed} is beyond the log's end"));
        }
    }
    Ok(())
}

fn show(output: Option<&Seen>) -> String {
    output.map_or("missing".into(), |(topic, value)| {
        format!("{topic} {:?}", String::from_utf8_lossy(value.as_deref().unwrap_or_default()))
    })
}

fn header<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    std::str::from_utf8(record.headers.last(name)?.value?).ok()
}

/// What an output says about a handled message.
struct Order {
    /// Among its tenant's, from 1.
    number: usize,
    id: usize,
    release: u8,
}

fn order(record: &Record) -> Result<Order, String> {
    let text = std::str::from_utf8(record.value.as_deref().unwrap_or_default()).unwrap_or_default();
    let mut words = text.split(' ');
    let mut order = || {
        let (number, id, release) = (words.next()?, words.next()?, words.next()?);
        Some(Order { number: number.parse().ok()?, id: id.parse().ok()?, release: release.parse().ok()? })
    };
    order().ok_or_else(|| format!("{text:?} is no number, id and release"))
}

/// The input that became this dead letter, by its coordinates.
fn input_of_dead_letter(letter: &Record, cluster: &Cluster, truth: &Truth<'_>) -> Result<usize, String> {
    let field = |name: &str| header(letter, &format!("{HEADER_PREFIX}{name}")).unwrap_or_default();
    let origin = || {
        let (partition, offset) = (field("partition").parse::<i32>().ok()?, field("offset").parse::<i64>().ok()?);
        let (partition, offset) = (partition.try_into().ok()?, offset.try_into().ok()?);
        Some(Coordinates { topic: field("topic").into(), partition, offset })
    };
    let origin = origin().ok_or("a dead letter without coordinates")?;
    truth.find(cluster, &origin).ok_or_else(|| format!("a dead letter of {origin}, where no input is"))
}
