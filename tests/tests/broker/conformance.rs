//! All test vectors through the whole host: records in, records out, on a real broker.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use switchboard_core::vectors::{NamedBytes, Scenario, Step, parse};
use switchboard_tests::app::{App, LONG, MESSENGER, header, source};
use switchboard_tests::client::Record;
use switchboard_tests::directory::Directory;
use uuid::Uuid;

type Headers = Vec<(String, Option<Vec<u8>>)>;
/// Outputs whose order is defined: those of one tenant and topic with one key, which are in one partition.
type Streams = BTreeMap<(Headers, String, Option<Vec<u8>>), Vec<(Option<Vec<u8>>, Headers)>>;

/// A scenario under tenants of its own.
struct Cast<'a> {
    scenario: &'a Scenario,
    /// The vector's tenant ids, in lower case -> this run's.
    ids: BTreeMap<String, String>,
}

impl<'a> Cast<'a> {
    fn new(scenario: &'a Scenario, number: usize) -> Result<Self> {
        let mut ids = BTreeMap::new();
        for (place, headers) in scenario.tenants.values().enumerate() {
            let id = tenant_id(&bytes(headers)?).context("a tenant without TENANT_ID")?;
            let own = Uuid::from_u64_pair(number as u64 + 1, place as u64 + 1).to_string();
            ids.entry(id.to_lowercase()).or_insert(own);
        }
        Ok(Self { scenario, ids })
    }

    /// The headers with this run's tenant id, in the case of the vector's.
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

    /// The step's record, and the barrier behind it: no JSON, so that its dead letter comes after all the step caused.
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

/// The headers of tenants, lower case: whose an output is.
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

fn expected(casts: &[Cast<'_>]) -> Result<Streams> {
    let mut streams = Streams::new();
    for cast in casts {
        for step in &cast.scenario.steps {
            for output in &step.out {
                let headers =
                    cast.scenario.expected_headers(&step.input, output).map_err(|problem| anyhow!(problem))?;
                let text = |name: &[u8]| anyhow::Ok(String::from_utf8(name.to_vec())?);
                let headers = headers.iter().map(|h| Ok((text(h.name)?, h.value.map(<[u8]>::to_vec))));
                let headers = cast.own(headers.collect::<Result<_>>()?);
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

/// Each scenario runs under tenants of its own, step by step; the scenarios run side by side.
#[test]
fn every_vector_gives_its_outputs_on_a_real_broker() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/messenger.json");
    let scenarios = parse(&std::fs::read_to_string(file)?)?;
    let casts: Vec<_> = scenarios.iter().zip(0..).map(|(scenario, n)| Cast::new(scenario, n)).collect::<Result<_>>()?;

    let directory = Directory::start()?;
    for cast in &casts {
        for (key, document) in cast.scenario.lookups.iter().flat_map(|sources| &sources["characters"]) {
            for id in cast.ids.values() {
                directory.put(id, key, &serde_json::from_str(document.get())?);
            }
        }
    }
    let app = App::messenger("vectors", 2)?.env("CHARACTERS_SERVICE_URL", &directory.url());
    let mut host = app.run("vectors", &[])?;

    // Dead letters that must come, by the record's place; true: with the original's bytes to be compared.
    let mut letters: BTreeMap<(String, i32, i64), Option<Record>> = BTreeMap::new();
    let mut reader = app.client.reader(&[&app.dead_letters()])?;
    let rounds = casts.iter().map(|cast| cast.scenario.steps.len()).max().unwrap_or(0);
    for round in 0..rounds {
        let mut barriers = BTreeSet::new();
        for cast in &casts {
            let Some(step) = cast.scenario.steps.get(round) else { continue };
            let [record, barrier] = cast.records(step, &app)?;
            let places = app.client.produce(&[record.clone(), barrier])?;
            let place = |(partition, offset): (i32, i64)| (step.input.topic.clone(), partition, offset);
            if step.dead_letter.is_some() {
                letters.insert(place(places[0]), Some(record));
            }
            letters.insert(place(places[1]), None);
            barriers.insert(place(places[1]));
        }
        let settled = |records: &[Record]| {
            let seen: BTreeSet<_> = records.iter().rev().take(3 * casts.len()).filter_map(source).collect();
            barriers.is_subset(&seen)
        };
        reader.until(&format!("the barriers of round {round}"), LONG, settled)?;
    }

    let buried = app.client.read_all(&app.dead_letters())?;
    let places: BTreeSet<_> = buried.iter().filter_map(source).collect();
    assert_eq!(places, letters.keys().cloned().collect(), "the dead letters, by their sources");
    assert_eq!(places.len(), buried.len(), "each record is settled once");
    for letter in &buried {
        let place = source(letter).context("a dead letter without a source")?;
        let Some(original) = &letters[&place] else { continue };
        assert_eq!((&letter.key, &letter.value), (&original.key, &original.value));
        assert_eq!(letter.headers[..original.headers.len()], original.headers);
    }
    let (expected, actual) = (expected(&casts)?, actual(&app)?);
    for (stream, records) in &expected {
        assert_eq!(actual.get(stream), Some(records), "outputs of {stream:?}");
    }
    assert_eq!(actual.len(), expected.len(), "no further outputs");
    assert!(host.terminate(LONG)?.success());
    Ok(())
}
