//! The outputs of a message: what a plugin may send, and the headers that the host adds.

use std::sync::Arc;

use super::dead_letter::{Class, DeadLetter, HEADER_PREFIX};
use super::headers::{Header, Headers};
use super::kafka_record::Record;
use super::tenant::Tenant;
use super::trace::{TRACEPARENT, TRACESTATE, Trace};

/// An output as the plugin made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// The alias of the topic.
    pub topic: String,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The plugin's own headers.
    pub headers: Headers,
}

/// An output as the host sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The alias of the topic.
    pub topic: Arc<str>,
    /// The record.
    pub record: Record,
}

/// The limits on the outputs of one message. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// The number of outputs.
    pub outputs: usize,
    /// The sum of all keys, values and headers.
    pub bytes: usize,
    /// The key of one output.
    pub key: usize,
    /// The value of one output.
    pub value: usize,
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self { outputs: 1000, bytes: 4 << 20, key: 512, value: 1 << 20 }
    }
}

/// The limits on outputs, and the headers that the host adds to them.
#[derive(Debug, Clone)]
pub struct OutputRules {
    /// Headers that the host copies from the consumed record to every output, if present and not empty.
    pub carry_headers: Vec<String>,
    /// The limits.
    pub limits: OutputLimits,
}

impl OutputRules {
    /// Checks the outputs of a message and adds the host's headers. An output has the tenant's headers first, then those
    /// carried over, the trace context, and the plugin's own. `topics` are the aliases that the plugin may produce to.
    ///
    /// # Errors
    /// A dead letter of class `output` for an unknown alias or one of the host's headers, of class `limit` for an exceeded limit.
    pub fn address(
        &self,
        topics: &[Arc<str>],
        outputs: Vec<Outbound>,
        record: &Record,
        tenant: &Tenant,
        trace: &Trace,
    ) -> Result<Vec<Outgoing>, DeadLetter> {
        if outputs.len() > self.limits.outputs {
            return Err(over_limit(format!("{} outputs, at most {} are allowed", outputs.len(), self.limits.outputs)));
        }
        let mut bytes = 0;
        let mut outgoing = Vec::with_capacity(outputs.len());
        for output in outputs {
            let output = self.address_one(topics, output, record, tenant, trace)?;
            bytes += output.record.bytes();
            if bytes > self.limits.bytes {
                return Err(over_limit(format!("outputs of more than {} bytes in all", self.limits.bytes)));
            }
            outgoing.push(output);
        }
        Ok(outgoing)
    }

    fn address_one(
        &self,
        topics: &[Arc<str>],
        output: Outbound,
        record: &Record,
        tenant: &Tenant,
        trace: &Trace,
    ) -> Result<Outgoing, DeadLetter> {
        let Some(topic) = topics.iter().find(|topic| ***topic == *output.topic) else {
            let reason = format!(
                "an output to {:?}, which is not among the topics this plugin may produce to ({})",
                output.topic,
                topics.join(", ")
            );
            return Err(DeadLetter::new(Class::Output, reason));
        };
        let fields = [("key", &output.key, self.limits.key), ("value", &output.value, self.limits.value)];
        for (name, field, most) in fields {
            let length = field.as_ref().map_or(0, Vec::len);
            if length > most {
                return Err(over_limit(format!("an output's {name} of {length} bytes, at most {most} are allowed")));
            }
        }
        if let Some(header) = output.headers.iter().find(|header| self.is_hosts(*header, tenant)) {
            let name = String::from_utf8_lossy(header.name);
            return Err(DeadLetter::new(
                Class::Output,
                format!("an output sets the header {name:?}, which is the host's"),
            ));
        }
        let headers = self.headers(&output.headers, record, tenant, trace);
        let record = Record { key: output.key, value: output.value, headers, timestamp: None };
        Ok(Outgoing { topic: Arc::clone(topic), record })
    }

    /// All headers of an output whose plugin gave it `own`.
    fn headers(&self, own: &Headers, record: &Record, tenant: &Tenant, trace: &Trace) -> Headers {
        let mut headers = Headers::with_capacity(
            tenant.headers.len() + own.len() + self.carry_headers.len() + 2,
            tenant.headers.bytes() + own.bytes() + 128,
        );
        headers.append(&tenant.headers);
        for Header { name, value } in self.carry_headers.iter().filter_map(|name| record.headers.last(name)) {
            if value.is_some_and(|value| !value.is_empty()) {
                headers.push(name, value);
            }
        }
        trace.write_to(&mut headers);
        headers.append(own);
        headers
    }

    fn is_hosts(&self, header: Header<'_>, tenant: &Tenant) -> bool {
        let name = header.name;
        tenant.headers.iter().any(|own| own.name == name)
            || self.carry_headers.iter().any(|own| own.as_bytes() == name)
            || [TRACEPARENT, TRACESTATE].iter().any(|own| own.as_bytes() == name)
            || name.starts_with(HEADER_PREFIX.as_bytes())
    }
}

fn over_limit(reason: String) -> DeadLetter {
    DeadLetter::new(Class::Limit, reason)
}

#[cfg(test)]
mod tests {
    use super::super::kafka_record::Coordinates;
    use super::super::tenant::TenantId;
    use super::*;

    fn rules() -> OutputRules {
        OutputRules {
            carry_headers: vec!["ENVIRONMENT".into()],
            limits: OutputLimits { outputs: 2, bytes: 400, key: 4, value: 300 },
        }
    }

    fn headers(headers: &[(&str, &str)]) -> Headers {
        headers.iter().map(|(name, value)| (name, Some(value))).collect()
    }

    fn output(topic: &str, own: &[(&str, &str)]) -> Outbound {
        Outbound { topic: topic.into(), key: Some(vec![1]), value: Some(vec![0xff]), headers: headers(own) }
    }

    fn address(outputs: Vec<Outbound>, record: &[(&str, &str)]) -> Result<Vec<Outgoing>, DeadLetter> {
        let tenant =
            Tenant { id: TenantId::new("t"), headers: headers(&[("TENANT_ID", "t")]), texts: vec!["t".into()] };
        let record = Record { headers: headers(record), ..Record::default() };
        let trace = Trace::of(
            &Headers::new(),
            "app",
            &Coordinates { topic: "T".into(), partition: 0.into(), offset: 0.into() },
        );
        rules().address(&["OUT".into()], outputs, &record, &tenant, &trace)
    }

    fn names(headers: &Headers) -> Vec<String> {
        headers.iter().map(|header| String::from_utf8_lossy(header.name).into_owned()).collect()
    }

    #[test]
    fn an_output_carries_tenant_environment_trace_and_its_own_headers() {
        let record = [("ENVIRONMENT", "first"), ("x", "1"), ("ENVIRONMENT", "last")];
        let out = address(vec![output("OUT", &[("mine", "1")])], &record).unwrap();
        assert_eq!(names(&out[0].record.headers), ["TENANT_ID", "ENVIRONMENT", "traceparent", "mine"]);
        assert_eq!(out[0].record.headers.last("ENVIRONMENT").unwrap().value, Some(&b"last"[..]));
    }

    #[test]
    fn an_empty_carry_header_is_left_out() {
        let out = address(vec![output("OUT", &[])], &[("ENVIRONMENT", "")]).unwrap();
        assert_eq!(names(&out[0].record.headers), ["TENANT_ID", "traceparent"]);
    }

    #[test]
    fn unknown_topics_and_headers_of_the_host_are_refused() {
        assert_eq!(address(vec![output("ELSEWHERE", &[])], &[]).unwrap_err().class, Class::Output);
        for name in ["TENANT_ID", "ENVIRONMENT", "traceparent", "tracestate", "switchboard-envelope"] {
            let letter = address(vec![output("OUT", &[(name, "")])], &[]).unwrap_err();
            assert_eq!(letter.class, Class::Output);
            assert!(letter.reason.contains(name), "{}", letter.reason);
        }
    }

    #[test]
    fn each_limit_of_outputs_is_a_limit() {
        let long = |key: usize, value: usize| Outbound {
            key: Some(vec![0; key]),
            value: Some(vec![0; value]),
            ..output("OUT", &[])
        };
        let beyond = [
            vec![long(0, 0), long(0, 0), long(0, 0)],
            vec![long(5, 0)],
            vec![long(0, 301)],
            vec![long(0, 200), long(0, 200)],
        ];
        for outputs in beyond {
            assert_eq!(address(outputs, &[]).unwrap_err().class, Class::Limit);
        }
        assert_eq!(address(vec![long(4, 60), long(4, 60)], &[]).unwrap().len(), 2);
    }
}
