//! The file format of test vectors.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::record::{HeaderKind, Headers, OutOfRange, TenantHeader, TenantSchema};

/// Why test vectors cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// The file is not JSON of this format.
    #[error("not a file of test vectors: {0}")]
    Json(#[from] serde_json::Error),
    /// A step cannot be run.
    #[error("scenario {scenario:?}: step {step}: {error}")]
    Step {
        /// The name of the scenario.
        scenario: String,
        /// The position of the step in the scenario, from 0.
        step: usize,
        /// Why not.
        #[source]
        error: StepError,
    },
}

/// Why a step cannot be run: it contradicts itself, its scenario or the plugin.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The plugin does not consume the topic.
    #[error("{plugin} consumes {consumes}, not {topic:?}")]
    NotConsumed {
        /// The name of the plugin.
        plugin: String,
        /// The aliases that it consumes.
        consumes: String,
        /// The alias of the step's topic.
        topic: String,
    },
    /// The scenario has no tenant of this name.
    #[error("no tenant {0:?} in \"tenants\"")]
    NoTenant(String),
    /// Bytes of the step are malformed.
    #[error(transparent)]
    Bytes(#[from] BytesError),
    /// The scenario has more steps than a partition has offsets.
    #[error(transparent)]
    Offset(#[from] OutOfRange),
}

/// Why bytes of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BytesError {
    /// The hexadecimal digits are malformed.
    #[error("hex {digits:?}: {error}")]
    Hex {
        /// The text.
        digits: String,
        /// What is wrong with it.
        #[source]
        error: hex::FromHexError,
    },
    /// They are not written in exactly one of the three ways.
    #[error(r#"bytes are one of {{"text": ..}}, {{"hex": ..}}, {{"json": ..}}"#)]
    NotOne,
}

/// A scenario: records that are consumed one after the other. Scenarios share nothing, each starts with empty state.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The name, for people.
    pub name: String,
    /// The configuration of the host.
    pub config: ScenarioConfig,
    /// The tenant headers of each tenant's records.
    pub tenants: BTreeMap<String, Vec<NamedBytes>>,
    /// The answers to lookups by source and key. `None`: the host has no lookup sources, so every answer is "not
    /// found".
    pub lookups: Option<BTreeMap<String, BTreeMap<String, Box<RawValue>>>>,
    /// The consumed records in their order.
    pub steps: Vec<Step>,
    /// A note for people.
    #[serde(default)]
    pub note: String,
    /// For people: where the plugin deliberately differs from a service that it replaces.
    #[serde(default)]
    pub deviates: String,
}

/// The configuration of the host in a scenario.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioConfig {
    /// The name and the format of each tenant header.
    pub tenant_headers: Vec<(String, HeaderKind)>,
    /// Headers that the host copies from a consumed record to its outputs.
    pub carry_headers: Vec<String>,
}

impl ScenarioConfig {
    /// The tenant headers as a schema.
    pub fn tenant_schema(&self) -> TenantSchema {
        let header = |(name, kind): &(String, HeaderKind)| TenantHeader { name: name.clone(), kind: *kind };
        TenantSchema::new(self.tenant_headers.iter().map(header).collect())
    }
}

/// One consumed record and everything that it causes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The consumed record.
    #[serde(rename = "in")]
    pub input: Input,
    /// The expected outputs in their order.
    pub out: Vec<Output>,
    /// If present, the record must become a dead letter. The text is a hint at the reason.
    pub dead_letter: Option<String>,
}

/// The consumed record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The alias of the source topic.
    pub topic: String,
    /// The name of the tenant in the scenario.
    pub tenant: String,
    /// The headers of the record, in place of the tenant's.
    pub headers: Option<Vec<NamedBytes>>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
}

/// A produced record.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The alias of the topic.
    pub topic: String,
    /// The key.
    pub key: Option<Bytes>,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in addition to the tenant's, or in place of those with the same name.
    #[serde(default)]
    pub headers: Vec<NamedBytes>,
}

/// A header: its name and its value.
pub type NamedBytes = (String, Option<Bytes>);

/// Bytes in one of three notations: text, hexadecimal digits, or JSON.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bytes {
    text: Option<String>,
    hex: Option<String>,
    /// A JSON value; its bytes are as they stand in the file.
    json: Option<Box<RawValue>>,
}

impl Bytes {
    /// The bytes.
    ///
    /// # Errors
    /// If not exactly one notation is used, or the hexadecimal digits are malformed.
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
    /// If the scenario does not have the tenant, or bytes are malformed.
    pub fn record_headers(&self, scenario: &Scenario) -> Result<Headers, StepError> {
        match &self.headers {
            Some(own) => Ok(headers(own)?),
            None => Ok(headers(scenario.tenant_headers(&self.tenant)?)?),
        }
    }
}

impl Scenario {
    /// The tenant headers of a tenant.
    ///
    /// # Errors
    /// If the scenario does not have the tenant.
    pub fn tenant_headers(&self, tenant: &str) -> Result<&[NamedBytes], StepError> {
        let found = self.tenants.get(tenant).map(Vec::as_slice);
        found.ok_or_else(|| StepError::NoTenant(tenant.to_owned()))
    }

    /// The headers that an output of a step must have, without those that the host derives, in sorted order.
    ///
    /// # Errors
    /// If the scenario does not have the tenant, or bytes are malformed.
    pub fn expected_headers(&self, input: &Input, output: &Output) -> Result<Headers, StepError> {
        let own = headers(&output.headers)?;
        let tenant = headers(self.tenant_headers(&input.tenant)?)?;
        let kept = tenant.iter().filter(|header| own.iter().all(|other| other.name != header.name));
        let mut expected: Vec<_> = kept.chain(own.iter()).collect();
        expected.sort();
        Ok(expected.into_iter().collect())
    }
}

/// Parses a file of test vectors.
///
/// # Errors
/// If the file is not JSON of this format.
pub fn parse(text: &str) -> Result<Vec<Scenario>, VectorError> {
    Ok(serde_json::from_str(text)?)
}
