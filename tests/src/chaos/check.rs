//! Checks the records at the end of a run against the inputs. The model is the plugin itself, run natively in the order
//! that the outputs show. Nothing here talks to a broker.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ledger::Ledger;
use switchboard_sdk::testkit::Bench;
use switchboard_sdk::{Message, Outbound, Rejection};

use super::mix::Input;
use crate::app::header;
use crate::client::Record;
use crate::generator::Input as _;

/// The number of violations of each kind that a report shows.
const REPORTED_PER_KIND: usize = 5;

/// All records at the end of a run, as a read_committed reader gets them.
#[derive(Debug, Default, Clone)]
pub struct Evidence {
    /// The inputs that were sent.
    pub sent: Vec<Input>,
    /// The records of the source topic.
    pub inputs: Vec<Record>,
    pub lines: Vec<Record>,
    pub audit: Vec<Record>,
    pub dead_letters: Vec<Record>,
    pub changelog: Vec<Record>,
}

/// The violations that were found, by kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Violations(BTreeMap<&'static str, Vec<String>>);

impl Violations {
    pub fn add(&mut self, kind: &'static str, what: String) {
        self.0.entry(kind).or_default().push(what);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of violations of a kind.
    pub fn count(&self, kind: &str) -> usize {
        self.0.get(kind).map_or(0, Vec::len)
    }

    /// The first few of each kind.
    pub fn summary(&self) -> Vec<String> {
        let few = |(kind, all): (&&str, &Vec<String>)| {
            let first: Vec<_> = all.iter().take(REPORTED_PER_KIND).map(String::as_str).collect();
            format!("{kind}, {} times: {}", all.len(), first.join("; "))
        };
        self.0.iter().map(few).collect()
    }
}

/// An output that settles an input: a line's first part, or a dead letter.
struct Found<'a> {
    id: u64,
    record: &'a Record,
}

/// Looks for every violation of exactly-once processing.
pub fn check(evidence: &Evidence) -> Violations {
    let mut violations = Violations::default();
    let origins = origins(evidence, &mut violations);
    let lines = by_tenant(&evidence.lines);
    let letters = by_tenant(&evidence.dead_letters);
    account(evidence, &mut violations);
    let mut audit: HashMap<&[u8], Vec<&Record>> = HashMap::new();
    for record in &evidence.audit {
        audit.entry(record.key.as_deref().unwrap_or_default()).or_default().push(record);
    }
    let mut state = compacted(&evidence.changelog, &mut violations);
    let mut expected_audit = 0;
    let tenants: BTreeSet<&str> = evidence.sent.iter().map(|input| input.tenant.as_str()).collect();
    for tenant in tenants {
        let none = Vec::new();
        let lines = lines.get(tenant).unwrap_or(&none);
        let letters = letters.get(tenant).unwrap_or(&none);
        let accepted = found(lines, true);
        let refused = found(letters, false);
        keeps_source_order(tenant, &accepted, &refused, &origins, &mut violations);
        let (outputs, bench) = replay(tenant, &accepted, &refused, evidence, &mut violations);
        expected_audit += outputs.iter().filter(|output| output.topic == "AUDIT").count();
        same_outputs(tenant, &outputs, lines, &audit, &mut violations);
        let kept = state.remove(tenant).unwrap_or_default();
        if kept != bench.state.0 {
            violations.add("state differs", format!("{tenant} has {}, not {}", text(&kept), text(&bench.state.0)));
        }
    }
    if expected_audit != evidence.audit.len() {
        let found = evidence.audit.len();
        violations.add("wrong output", format!("{found} records of AUDIT instead of {expected_audit}"));
    }
    for tenant in state.keys() {
        violations.add("state differs", format!("there is state of {tenant}, which sent nothing"));
    }
    violations
}

/// The position of each input in the source topic. Each is there once, or the test itself is wrong.
fn origins(evidence: &Evidence, violations: &mut Violations) -> HashMap<u64, (i32, i64)> {
    let mut origins = HashMap::new();
    for record in &evidence.inputs {
        let origin = (record.partition.unwrap_or(-1), record.offset.unwrap_or(-1));
        if let Some(id) = id(record)
            && origins.insert(id, origin).is_some()
        {
            violations.add("wrong input", format!("{id} was written twice"));
        }
    }
    for input in evidence.sent.iter().filter(|input| !origins.contains_key(&input.id)) {
        violations.add("wrong input", format!("{} was acknowledged, but is not in the topic", input.id));
    }
    origins
}

/// Every input is settled once: by a line, or by a dead letter.
fn account(evidence: &Evidence, violations: &mut Violations) {
    let mut settled: HashMap<u64, (usize, usize)> = HashMap::new();
    for record in evidence.lines.iter().filter(|line| part(line) == Some(0)) {
        settled.entry(id(record).unwrap_or(u64::MAX)).or_default().0 += 1;
    }
    for record in &evidence.dead_letters {
        settled.entry(id(record).unwrap_or(u64::MAX)).or_default().1 += 1;
    }
    for input in &evidence.sent {
        let found = settled.remove(&input.id).unwrap_or_default();
        let expected = if input.is_refused() { (0, 1) } else { (1, 0) };
        let kind = match found {
            found if found == expected => continue,
            (0, 0) => "lost",
            _ => "settled twice",
        };
        violations.add(kind, format!("{input:?} has {} lines and {} dead letters", found.0, found.1));
    }
    for id in settled.keys() {
        violations.add("settled twice", format!("{id}, which was not sent"));
    }
}

fn by_tenant(records: &[Record]) -> BTreeMap<&str, Vec<&Record>> {
    let mut tenants: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records {
        tenants.entry(header(record, "TENANT").unwrap_or("")).or_default().push(record);
    }
    tenants
}

fn found<'a>(records: &[&'a Record], lines: bool) -> Vec<Found<'a>> {
    let first = records.iter().filter(|record| !lines || part(record) == Some(0));
    first.filter_map(|record| Some(Found { id: id(record)?, record })).collect()
}

/// A tenant's outputs keep the order of each source partition. A refusal says after which line it happened.
fn keeps_source_order(
    tenant: &str,
    accepted: &[Found<'_>],
    refused: &[Found<'_>],
    origins: &HashMap<u64, (i32, i64)>,
    violations: &mut Violations,
) {
    // Each with its rank in the tenant's order: the n-th line has 2n, and refusals after it have 2n + 1.
    let lines = accepted.iter().zip(1_u64..).map(|(found, number)| (2 * number, found.id));
    let letters = refused.iter().filter_map(|found| Some((2 * refused_after(found.record)?.0 + 1, found.id)));
    let mut order: Vec<_> = lines.chain(letters).collect();
    // Refusals after the same line are in the order of the dead letters.
    order.sort_by_key(|(rank, _)| *rank);
    let mut last: HashMap<i32, i64> = HashMap::new();
    let traps = refused.iter().filter(|found| refused_after(found.record).is_none()).map(|found| found.id);
    let mut check = |ids: &mut dyn Iterator<Item = u64>| {
        last.clear();
        for id in ids {
            let Some((partition, offset)) = origins.get(&id) else { continue };
            if last.insert(*partition, *offset).is_some_and(|before| before >= *offset) {
                let what = format!("{tenant}: input {id} of partition {partition} was overtaken");
                violations.add("out of order", what);
            }
        }
    };
    check(&mut order.iter().map(|(_, id)| *id));
    check(&mut traps.into_iter());
}

/// Runs the plugin on a tenant's inputs in the order of its lines. Refused inputs run after the line that they name.
fn replay(
    tenant: &str,
    accepted: &[Found<'_>],
    refused: &[Found<'_>],
    evidence: &Evidence,
    violations: &mut Violations,
) -> (Vec<Outbound>, Bench) {
    let mut bench = Bench::default();
    let mut outputs = Vec::new();
    let mut refusals: BTreeMap<u64, Vec<&Found<'_>>> = BTreeMap::new();
    for found in refused {
        if let Some((number, _)) = refused_after(found.record) {
            refusals.entry(number).or_default().push(found);
        }
    }
    let message = |id: u64| {
        let input = evidence.sent.get(usize::try_from(id).ok()?)?;
        let value = Some(input.value().into_bytes());
        Some(Message { topic: "IN".to_owned(), tenant: tenant.to_owned(), value, ..Message::default() })
    };
    for number in 0..=accepted.len() {
        for refusal in refusals.remove(&(number as u64)).unwrap_or_default() {
            let Some(message) = message(refusal.id) else { continue };
            let reason = header(refusal.record, "switchboard-reason").unwrap_or_default();
            match bench.handle::<Ledger>(&message) {
                Err(Rejection::Invalid(expected)) if reason.contains(&expected) => {}
                other => violations.add("wrong output", format!("{tenant}: {reason:?} instead of {other:?}")),
            }
        }
        let Some(message) = accepted.get(number).and_then(|found| message(found.id)) else { continue };
        match bench.handle::<Ledger>(&message) {
            Ok(sent) => outputs.extend(sent),
            Err(error) => violations.add("wrong output", format!("{tenant} has a line of {message:?}: {error:?}")),
        }
    }
    for refusal in refusals.into_values().flatten() {
        let reason = header(refusal.record, "switchboard-reason").unwrap_or_default();
        violations.add("wrong output", format!("{tenant} has {} lines, but a refusal {reason:?}", accepted.len()));
    }
    (outputs, bench)
}

fn same_outputs(
    tenant: &str,
    expected: &[Outbound],
    lines: &[&Record],
    audit: &HashMap<&[u8], Vec<&Record>>,
    violations: &mut Violations,
) {
    let partitions: BTreeSet<_> = lines.iter().map(|line| line.partition).collect();
    if partitions.len() > 1 {
        violations.add("wrong output", format!("{tenant}'s lines are in the partitions {partitions:?}"));
    }
    let expected_lines: Vec<_> = expected.iter().filter(|output| output.topic == "LINES").collect();
    let differs = expected_lines.iter().zip(lines).find(|(expected, line)| expected.value != line.value);
    if let Some((expected, line)) = differs {
        let [expected, found] = [&expected.value, &line.value].map(|value| value.clone().unwrap_or_default());
        let [expected, found] = [expected, found].map(|value| String::from_utf8_lossy(&value).into_owned());
        violations.add("wrong output", format!("{tenant}: {found:?} instead of {expected:?}"));
    } else if expected_lines.len() != lines.len() {
        let found = lines.len();
        let expected = expected_lines.len();
        violations.add("wrong output", format!("{tenant} has {found} lines instead of {expected}"));
    }
    for output in expected.iter().filter(|output| output.topic == "AUDIT") {
        let found = audit.get(output.key.as_deref().unwrap_or_default()).map_or(&[][..], Vec::as_slice);
        if found.len() != 1 || found[0].value != output.value {
            let key = String::from_utf8_lossy(output.key.as_deref().unwrap_or_default()).into_owned();
            violations.add("wrong output", format!("{tenant}: AUDIT has {} records of {key}, or another", found.len()));
        }
    }
}

type State = BTreeMap<String, Vec<u8>>;

/// The state that a changelog contains, by tenant, without the host's own entries.
fn compacted(changelog: &[Record], violations: &mut Violations) -> BTreeMap<String, State> {
    let mut tenants: BTreeMap<String, State> = BTreeMap::new();
    for record in changelog {
        let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned();
        let Some((tenant, key)) = key.split_once('\0') else {
            violations.add("state differs", format!("the changelog has a key {key:?}"));
            continue;
        };
        if key.starts_with('\0') {
            continue;
        }
        let state = tenants.entry(tenant.to_owned()).or_default();
        match &record.value {
            Some(value) => drop(state.insert(key.to_owned(), value.clone())),
            None => drop(state.remove(key)),
        }
    }
    tenants.retain(|_, state| !state.is_empty());
    tenants
}

fn word(record: &Record, index: usize) -> Option<&str> {
    std::str::from_utf8(record.value.as_deref()?).ok()?.split(' ').nth(index)
}

fn id(record: &Record) -> Option<u64> {
    word(record, 0)?.parse().ok()
}

fn part(line: &Record) -> Option<u64> {
    word(line, 3)?.parse().ok()
}

/// The number and hash of the line before a refusal. `None` for a trap, whose dead letter does not contain them.
fn refused_after(letter: &Record) -> Option<(u64, u64)> {
    let reason = header(letter, "switchboard-reason")?;
    let mut words = reason.split("after ").nth(1)?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

fn text(state: &State) -> String {
    let entries = state.iter().map(|(key, value)| format!("{key}={}", String::from_utf8_lossy(value)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
