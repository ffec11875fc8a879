use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::record::{HeaderKind, Headers, OutOfRange, TenantHeader, TenantSchema};

/// A file that is no list of scenarios.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    #[error("not a file of test vectors: {0}")]
    Json(#[from] serde_json::Error),
    #[error("scenario {scenario:?}: step {step}: {error}")]
    Step {
        scenario: String,
        /// Place in the scenario, from 0.
        step: usize,
        #[source]
        error: StepError,
    },
}

/// A step that contradicts itself, its scenario or the plugin.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{plugin} consumes {consumes}, not {topic:?}")]
    NotConsumed { plugin: String, consumes: String, topic: String },
    #[error("no tenant {0:?} in \"tenants\"")]
    NoTenant(String),
    #[error(transparent)]
    Bytes(#[from] BytesError),
    #[error(transparent)]
    Offset(#[from] OutOfRange),
}

/// Bytes that are not written in one of the three ways.
#[derive(Debug, thiserror::Error)]
pub enum BytesError {
    #[error("hex {digits:?}: {error}")]
    Hex {
        digits: String,
        #[source]
        error: hex::FromHexError,
    },
    #[error(r#"bytes are one of {{"text": ..}}, {{"hex": ..}}, {{"json": ..}}"#)]
    NotOne,
}

/// Scenarios share nothing: each starts with empty state.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    pub name: String,
    pub config: ScenarioConfig,
    /// The tenant headers of each tenant's records.
    pub tenants: BTreeMap<String, Vec<NamedBytes>>,
    /// Source, key, answer; `None`: the host has no lookup sources, so every answer is "not found".
    pub lookups: Option<BTreeMap<String, BTreeMap<String, Box<RawValue>>>>,
    pub steps: Vec<Step>,
    /// For people.
    #[serde(default)]
    pub note: String,
    /// For people: where a replaced service behaves otherwise, on purpose.
    #[serde(default)]
    pub deviates: String,
}

/// What the host is configured with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioConfig {
    pub tenant_headers: Vec<(String, HeaderKind)>,
    pub carry_headers: Vec<String>,
}

impl ScenarioConfig {
    /// The configured tenant headers.
    pub fn tenant_schema(&self) -> TenantSchema {
        let header = |(name, kind): &(String, HeaderKind)| TenantHeader { name: name.clone(), kind: *kind };
        TenantSchema::new(self.tenant_headers.iter().map(header).collect())
    }
}

/// One consumed record and everything that it causes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(rename = "in")]
    pub input: Input,
    pub out: Vec<Output>,
    /// Present: the record must become a dead letter. A hint at the reason.
    pub dead_letter: Option<String>,
}

/// The consumed record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Alias.
    pub topic: String,
    pub tenant: String,
    /// Instead of the tenant's.
    pub headers: Option<Vec<NamedBytes>>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

/// A produced record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    pub topic: String,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    /// Beside or instead of the tenant's.
    #[serde(default)]
    pub headers: Vec<NamedBytes>,
}

/// A header: name and value.
pub type NamedBytes = (String, Option<Bytes>);

/// Bytes, written in one of three ways.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bytes {
    text: Option<String>,
    hex: Option<String>,
    /// Any serialisation of it; as it stands in the file.
    json: Option<Box<RawValue>>,
}

impl Bytes {
    /// # Errors
    /// When it is not exactly one of the three, or no hexadecimal text.
    pub fn to_vec(&self) -> Result<Vec<u8>, BytesError> {
        match (&self.text, &self.hex, &self.json) {
            (Some(text), None, None) => Ok(text.clone().into_bytes()),
            (None, Some(digits), None) => {
                hex::decode(digits).map_err(|error| BytesError::Hex { digits: digits.clone(), error })
            }
            (None, None, Some(json)) => Ok(json.get().as_bytes().to_vec()),
            _ => Err(BytesError::NotOne),
        }
    }
}

pub(super) fn optional(bytes: Option<&Bytes>) -> Result<Option<Vec<u8>>, BytesError> {
    bytes.map(Bytes::to_vec).transpose()
}

fn headers(named: &[NamedBytes]) -> Result<Headers, BytesError> {
    let header = |(name, value): &NamedBytes| Ok((name.clone(), optional(value.as_ref())?));
    named.iter().map(header).collect()
}

impl Input {
    /// The headers of the record.
    ///
    /// # Errors
    /// When the tenant is none of the scenario's, or bytes are malformed.
    pub fn record_headers(&self, scenario: &Scenario) -> Result<Headers, StepError> {
        match &self.headers {
            Some(own) => Ok(headers(own)?),
            None => Ok(headers(scenario.tenant_headers(&self.tenant)?)?),
        }
    }
}

impl Scenario {
    /// # Errors
    /// When the tenant is none of the scenario's.
    pub fn tenant_headers(&self, tenant: &str) -> Result<&[NamedBytes], StepError> {
        let found = self.tenants.get(tenant).map(Vec::as_slice);
        found.ok_or_else(|| StepError::NoTenant(tenant.to_owned()))
    }

    /// The headers that an output of a step must carry, beside those that the host writes: sorted.
    ///
    /// # Errors
    /// As `tenant_headers`, or when bytes are malformed.
    pub fn expected_headers(&self, input: &Input, output: &Output) -> Result<Headers, StepError> {
        let own = headers(&output.headers)?;
        let tenant = headers(self.tenant_headers(&input.tenant)?)?;
        let kept = tenant.iter().filter(|header| own.iter().all(|other| other.name != header.name));
        let mut expected: Vec<_> = kept.chain(own.iter()).collect();
        expected.sort();
        Ok(expected.into_iter().collect())
    }
}

/// Reads a file of test vectors.
///
/// # Errors
/// When it is not JSON of this format.
pub fn parse(text: &str) -> Result<Vec<Scenario>, VectorError> {
    Ok(serde_json::from_str(text)?)
}
