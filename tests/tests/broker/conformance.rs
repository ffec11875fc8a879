//! Does the whole host, on a real broker, produce what the test vectors say?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use switchboard_core::vectors::{NamedBytes, Scenario, Step, parse};
use switchboard_tests::app::{App, MESSENGER, WAIT_LIMIT, dead_letter_origin, header};
use switchboard_tests::client::Record;
use switchboard_tests::directory::Directory;
use uuid::Uuid;

type Headers = Vec<(String, Option<Vec<u8>>)>;
/// Outputs with a defined order: those of one tenant, topic and key, which are in one partition.
type Streams = BTreeMap<(Headers, String, Option<Vec<u8>>), Vec<(Option<Vec<u8>>, Headers)>>;

/// A scenario that runs under its own tenants.
struct ScenarioRun<'a> {
    scenario: &'a Scenario,
    /// The tenant ids of the vector, in lower case, and those of this run.
    ids: BTreeMap<String, String>,
}

impl<'a> ScenarioRun<'a> {
    fn new(scenario: &'a Scenario, number: usize) -> Result<Self> {
        let mut ids = BTreeMap::new();
        for (index, headers) in scenario.tenants.values().enumerate() {
            let id = tenant_id(&bytes(headers)?).context("a tenant without TENANT_ID")?;
            let own = Uuid::from_u64_pair(number as u64 + 1, index as u64 + 1).to_string();
            ids.entry(id.to_lowercase()).or_insert(own);
        }
        Ok(Self { scenario, ids })
    }

    /// The headers with this run's tenant id, in upper or lower case as in the vector.
    fn own(&self, mut headers: Headers) -> Headers {
        for (name, value) in &mut headers {
            let Some(text) = value.as_deref().and_then(|value| std::str::from_utf8(value).ok()) else { continue };
            if name == "TENANT_ID"
                && let Some(own) = self.ids.get(&text.to_lowercase())
            {
                let own =
                    if text.contains(|c: char| c.is_ascii_uppercase()) { own.to_uppercase() } else { own.clone() };
                *value = Some(own.into_bytes());
            }
        }
        headers
    }

    fn tenant(&self, step: &Step) -> Result<Headers> {
        let headers = self.scenario.tenant_headers(&step.input.tenant).map_err(|problem| anyhow!(problem))?;
        Ok(self.own(bytes(headers)?))
    }

    /// The step's record and the barrier after it. The barrier is not JSON, so its dead letter comes after everything
    /// that the step causes.
    fn records(&self, step: &Step, app: &App) -> Result<[Record; 2]> {
        let input = &step.input;
        let headers = match &input.headers {
            Some(own) => self.own(bytes(own)?),
            None => self.tenant(step)?,
        };
        let raw = |bytes: &Option<switchboard_core::vectors::Bytes>| {
            bytes.as_ref().map(|bytes| bytes.to_vec().map_err(|problem| anyhow!(problem))).transpose()
        };
        let record = Record {
            topic: app.topic(&input.topic).to_owned(),
            partition: Some(0),
            key: raw(&input.key)?,
            value: raw(&input.value)?,
            headers,
            ..Record::default()
        };
        let barrier =
            Record { key: None, value: Some(b"barrier".to_vec()), headers: self.tenant(step)?, ..record.clone() };
        Ok([record, barrier])
    }
}

fn bytes(headers: &[NamedBytes]) -> Result<Headers> {
    let header = |(name, value): &NamedBytes| {
        let value = value.as_ref().map(|value| value.to_vec().map_err(|problem| anyhow!(problem))).transpose()?;
        Ok((name.clone(), value))
    };
    headers.iter().map(header).collect()
}

fn tenant_id(headers: &Headers) -> Option<String> {
    let value = headers.iter().rev().find(|(name, _)| name == "TENANT_ID")?.1.clone()?;
    String::from_utf8(value).ok()
}

/// The tenant headers of an output, with the id in lower case.
fn whose(headers: &Headers) -> Headers {
    let mut whose: Headers = headers
        .iter()
        .filter(|(name, _)| ["TENANT_ID", "REGION", "MAJOR_VERSION", "MINOR_VERSION"].contains(&name.as_str()))
        .cloned()
        .collect();
    for (name, value) in &mut whose {
        if let (Some(value), "TENANT_ID") = (value, name.as_str()) {
            value.make_ascii_lowercase();
        }
    }
    whose.sort();
    whose
}

fn expected(runs: &[ScenarioRun<'_>]) -> Result<Streams> {
    let mut streams = Streams::new();
    for run in runs {
        for step in &run.scenario.steps {
            for output in &step.out {
                let headers = run.scenario.expected_headers(&step.input, output).map_err(|problem| anyhow!(problem))?;
                let text = |name: &[u8]| anyhow::Ok(String::from_utf8(name.to_vec())?);
                let headers = headers.iter().map(|h| Ok((text(h.name)?, h.value.map(<[u8]>::to_vec))));
                let headers = run.own(headers.collect::<Result<_>>()?);
                let raw = |bytes: &Option<switchboard_core::vectors::Bytes>| {
                    bytes.as_ref().map(|bytes| bytes.to_vec().map_err(|problem| anyhow!(problem))).transpose()
                };
                let stream = (whose(&headers), output.topic.clone(), raw(&output.key)?);
                streams.entry(stream).or_default().push((raw(&output.value)?, headers));
            }
        }
    }
    Ok(streams)
}

fn actual(app: &App) -> Result<Streams> {
    let mut streams = Streams::new();
    for alias in &MESSENGER[3..] {
        for record in app.client.read_all(app.topic(alias))? {
            let parent = header(&record, "traceparent").unwrap_or_default();
            ensure!(parent.len() == 55 && parent.starts_with("00-"), "an output without a trace: {record:#?}");
            let mut headers = record.headers;
            headers.retain(|(name, _)| name != "traceparent" && name != "tracestate");
            headers.sort();
            let stream = (whose(&headers), (*alias).to_owned(), record.key);
            streams.entry(stream).or_default().push((record.value, headers));
        }
    }
    Ok(streams)
}

/// Each scenario runs under its own tenants, step by step. The scenarios run interleaved.
#[test]
fn every_vector_gives_its_outputs_on_a_real_broker() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/messenger.json");
    let scenarios = parse(&std::fs::read_to_string(file)?)?;
    let runs: Vec<_> =
        scenarios.iter().zip(0..).map(|(scenario, n)| ScenarioRun::new(scenario, n)).collect::<Result<_>>()?;

    let directory = Directory::start()?;
    for run in &runs {
        for (key, document) in run.scenario.lookups.iter().flat_map(|sources| &sources["characters"]) {
            for id in run.ids.values() {
                directory.put(id, key, &serde_json::from_str(document.get())?);
            }
        }
    }
    let app = App::messenger("vectors", 2)?.env("CHARACTERS_SERVICE_URL", &directory.url());
    let mut host = app.run("vectors", &[])?;

    // The expected dead letters by their origin. With a record, the dead letter must have its bytes.
    let mut letters: BTreeMap<(String, i32, i64), Option<Record>> = BTreeMap::new();
    let mut reader = app.client.reader(&[&app.dead_letters()])?;
    let rounds = runs.iter().map(|run| run.scenario.steps.len()).max().unwrap_or(0);
    for round in 0..rounds {
        let mut barriers = BTreeSet::new();
        for run in &runs {
            let Some(step) = run.scenario.steps.get(round) else { continue };
            let [record, barrier] = run.records(step, &app)?;
            let positions = app.client.produce(&[record.clone(), barrier])?;
            let origin = |(partition, offset): (i32, i64)| (step.input.topic.clone(), partition, offset);
            if step.dead_letter.is_some() {
                letters.insert(origin(positions[0]), Some(record));
            }
            letters.insert(origin(positions[1]), None);
            barriers.insert(origin(positions[1]));
        }
        let settled = |records: &[Record]| {
            let seen: BTreeSet<_> = records.iter().rev().take(3 * runs.len()).filter_map(dead_letter_origin).collect();
            barriers.is_subset(&seen)
        };
        reader.until(&format!("the barriers of round {round}"), WAIT_LIMIT, settled)?;
    }

    let dead_letters = app.client.read_all(&app.dead_letters())?;
    let origins: BTreeSet<_> = dead_letters.iter().filter_map(dead_letter_origin).collect();
    assert_eq!(origins, letters.keys().cloned().collect(), "the dead letters, by their origin");
    assert_eq!(origins.len(), dead_letters.len(), "each record is settled once");
    for letter in &dead_letters {
        let origin = dead_letter_origin(letter).context("a dead letter without an origin")?;
        let Some(original) = &letters[&origin] else { continue };
        assert_eq!((&letter.key, &letter.value), (&original.key, &original.value));
        assert_eq!(letter.headers[..original.headers.len()], original.headers);
    }
    let expected = expected(&runs)?;
    let actual = actual(&app)?;
    for (stream, records) in &expected {
        assert_eq!(actual.get(stream), Some(records), "outputs of {stream:?}");
    }
    assert_eq!(actual.len(), expected.len(), "no further outputs");
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}
