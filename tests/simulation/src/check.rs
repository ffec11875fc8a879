//! Whether the promise was kept: every input's outputs, state changes, dead letter and offset exactly once, in order.

use std::collections::BTreeMap;

use switchboard_core::envelope::{HEADER_PREFIX, Record};
use switchboard_core::release::Ran;
use switchboard_core::state::decode_key;
use switchboard_core::worker::Partition;
use switchboard_sdk::testkit::Bench;

use crate::inputs::{Input, TENANT};
use crate::kafka::{Cluster, Place};
use crate::plugins::{Logic, ORDER, RELEASE, directory};

/// What a schedule set out with.
pub(crate) struct Truth<'a> {
    pub(crate) logic: Logic,
    /// By id.
    pub(crate) inputs: &'a [Input],
    /// Where each was produced, by id.
    pub(crate) offsets: &'a [i64],
}

/// An output as a reader sees it: topic and value.
type Seen = (String, Option<Vec<u8>>);

/// How often each input is accounted for in the outputs and dead letters that a read_committed reader is shown.
pub(crate) fn settled(cluster: &Cluster, truth: &Truth<'_>) -> Result<Vec<u32>, String> {
    let mut times = vec![0; truth.inputs.len()];
    for (_, record) in cluster.logs[&Place::Outputs].committed() {
        if header(record, "topic") == Some(ORDER) {
            times[order(record)?.1] += 1;
        }
    }
    for (_, record) in cluster.logs[&Place::DeadLetters].committed() {
        times[buried(record, cluster, truth)?] += 1;
    }
    Ok(times)
}

/// # Errors
/// What of the promise was broken.
pub(crate) fn check(cluster: &Cluster, truth: &Truth<'_>) -> Result<(), String> {
    for (id, times) in settled(cluster, truth)?.into_iter().enumerate() {
        if times != 1 {
            let input = &truth.inputs[id];
            return Err(format!("input {id} of {:?}, {:?}, is there {times} times", input.tenant, input.partition));
        }
    }
    let mut outputs: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
    let mut orders: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (_, record) in cluster.logs[&Place::Outputs].committed() {
        let (tenant, topic) = (header(record, TENANT).unwrap_or_default(), header(record, "topic").unwrap_or_default());
        outputs.entry(tenant).or_default().push((topic.to_owned(), record.value.clone()));
        if topic == ORDER {
            let (number, id) = order(record)?;
            let order = orders.entry(tenant).or_default();
            order.push(id);
            if number != order.len() {
                return Err(format!("{tenant}: number {number} comes as the {}th", order.len()));
            }
        }
    }
    let mut state: BTreeMap<(&str, &str), &[u8]> = BTreeMap::new();
    for (place, log) in &cluster.logs {
        let Place::Changelog(_) = place else { continue };
        for (_, record) in log.committed() {
            let key = decode_key(record.key.as_deref().unwrap_or_default()).map_err(|error| error.to_string())?;
            match &record.value {
                Some(value) => state.insert(key, value),
                None => state.remove(&key),
            };
        }
    }
    let entries = state.extract_if(.., |(_, key), _| *key == Ran::KEY);
    for ((tenant, _), value) in entries {
        let ran = Ran::decode(value).map(|ran| (ran.release, ran.state_version));
        if ran != Some((RELEASE, truth.logic.manifest().state_version)) {
            return Err(format!("{tenant}: ran under {ran:?}"));
        }
    }
    for (tenant, order) in &orders {
        let mut last = BTreeMap::new();
        for id in order {
            let input = &truth.inputs[*id];
            if let Some(earlier) = last.insert(input.partition, truth.offsets[*id])
                && earlier > truth.offsets[*id]
            {
                return Err(format!("{tenant}: input {id} of {:?} was overtaken", input.partition));
            }
        }
        replay(cluster, truth, tenant, order, &outputs[tenant], &mut state)?;
    }
    if let Some(((tenant, key), _)) = state.first_key_value() {
        return Err(format!("{tenant}: the state has {key:?}, which nothing put there"));
    }
    check_ends(cluster)
}

/// Runs a tenant's messages natively, in the order in which they were handled: the same outputs, the same state.
fn replay<'a>(
    cluster: &Cluster,
    truth: &Truth<'_>,
    tenant: &'a str,
    order: &[usize],
    outputs: &[Seen],
    state: &mut BTreeMap<(&'a str, &'a str), &'a [u8]>,
) -> Result<(), String> {
    let mut bench = Bench { answers: directory(), ..Bench::default() };
    let mut expected = Vec::new();
    for id in order {
        let message = truth.inputs[*id].message(&cluster.sources);
        let sent = truth.logic.replay(&mut bench, &message);
        let sent = sent.map_err(|rejection| format!("{tenant}: input {id} was to be rejected: {rejection:?}"))?;
        expected.extend(sent.into_iter().map(|output| (output.topic, output.value)));
    }
    if expected != outputs {
        let place = expected.iter().zip(outputs).position(|(a, b)| a != b).unwrap_or(expected.len().min(outputs.len()));
        return Err(format!(
            "{tenant}: output {place} is {}, not {}; {} and not {} in all",
            show(outputs.get(place)),
            show(expected.get(place)),
            outputs.len(),
            expected.len()
        ));
    }
    let own = state.extract_if(.., |(whose, _), _| *whose == tenant);
    let found: BTreeMap<String, Vec<u8>> = own.map(|((_, key), value)| (key.to_owned(), value.to_vec())).collect();
    if found == bench.state.0 {
        Ok(())
    } else {
        Err(format!("{tenant}: the state is {found:?}, not {:?}", bench.state.0))
    }
}

/// The offsets are at the ends, and nothing is left open.
fn check_ends(cluster: &Cluster) -> Result<(), String> {
    for (place, log) in &cluster.logs {
        if log.stable_end() != log.high_watermark() {
            return Err(format!("a transaction is left open in {place:?}"));
        }
        let Place::Consumed(partition) = place else { continue };
        let committed = cluster.group.committed.get(partition).copied().unwrap_or(0);
        if let Some((offset, _)) = log.read(committed) {
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

/// Number and id of a handled message.
fn order(record: &Record) -> Result<(usize, usize), String> {
    let text = std::str::from_utf8(record.value.as_deref().unwrap_or_default()).unwrap_or_default();
    let pair = text.split_once(' ').and_then(|(number, id)| Some((number.parse().ok()?, id.parse().ok()?)));
    pair.ok_or_else(|| format!("{text:?} is no number and id"))
}

/// The input that a dead letter is of, by its coordinates.
fn buried(letter: &Record, cluster: &Cluster, truth: &Truth<'_>) -> Result<usize, String> {
    let field = |name: &str| header(letter, &format!("{HEADER_PREFIX}{name}")).unwrap_or_default();
    let topic = cluster.sources.iter().position(|source| **source == *field("topic"));
    let place = || {
        let partition = Partition::Source { topic: topic?, index: field("partition").parse().ok()? };
        Some((partition, field("offset").parse::<i64>().ok()?))
    };
    let wanted = place().ok_or("a dead letter without coordinates")?;
    let found = truth.inputs.iter().zip(truth.offsets).position(|(input, offset)| (input.partition, *offset) == wanted);
    found.ok_or_else(|| format!("a dead letter of {wanted:?}, where no input is"))
}
