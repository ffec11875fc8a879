//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>), as OpenTelemetry writes it into record headers.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::record::{Coordinates, Header, last_header};

pub(super) const TRACEPARENT: &str = "traceparent";
pub(super) const TRACESTATE: &str = "tracestate";

/// The trace context of all that one record causes: the record's trace, with the host's own span as the parent.
///
/// Ids are derived from the record's coordinates, so that a second try writes the same. A missing or malformed
/// `traceparent` starts a new trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<Vec<u8>>,
}

impl Trace {
    /// `app` keeps apart the spans of two applications that consume the same record.
    pub fn of(headers: &[Header], app: &str, source: &Coordinates) -> Self {
        let mut hasher = SipHasher13::new();
        for text in [app, &source.topic] {
            hasher.write(text.as_bytes());
            hasher.write_u8(0);
        }
        hasher.write_i32(source.partition);
        hasher.write_i64(source.offset);
        let derived = hasher.finish128();
        // Zero is the invalid id.
        let span_id = derived.h1.max(1);

        let value = |name| last_header(headers, name).and_then(|header| header.value.as_deref());
        match value(TRACEPARENT).and_then(parse) {
            Some((trace_id, flags)) => {
                let state = value(TRACESTATE).filter(|state| !state.is_empty()).map(<[u8]>::to_vec);
                Self { trace_id, span_id, flags, state }
            }
            None => Self { trace_id: derived.as_u128().max(1), span_id, flags: 1, state: None },
        }
    }

    /// Appends `traceparent`, and `tracestate` where the record had one.
    pub(super) fn write_to(&self, headers: &mut Vec<Header>) {
        let mut text = String::with_capacity(55);
        write!(text, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
            .expect("writing to a String does not fail");
        headers.push(Header::new(TRACEPARENT, text));
        if let Some(state) = &self.state {
            headers.push(Header::new(TRACESTATE, state.clone()));
        }
    }
}

/// Trace id and flags of a `traceparent`. Of a later version's flags only those of version 00 are kept.
fn parse(value: &[u8]) -> Option<(u128, u8)> {
    let hex = |range: std::ops::Range<usize>| {
        let digits = value.get(range)?;
        let lower = digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        lower.then(|| std::str::from_utf8(digits).ok()).flatten()
    };
    let version = u8::from_str_radix(hex(0..2)?, 16).ok()?;
    let trace_id = u128::from_str_radix(hex(3..35)?, 16).ok()?;
    let parent_id = u64::from_str_radix(hex(36..52)?, 16).ok()?;
    let flags = u8::from_str_radix(hex(53..55)?, 16).ok()?;
    let dashes = [2, 35, 52].iter().all(|at| value[*at] == b'-');
    let length = match version {
        0 => value.len() == 55,
        255 => false,
        _ => value.len() == 55 || value[55] == b'-',
    };
    // Version 00 defines bit 0 (sampled); level 2 of the recommendation bit 1 (random).
    (dashes && length && trace_id != 0 && parent_id != 0).then_some((trace_id, flags & 0b11))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn trace(headers: &[Header], offset: i64) -> Vec<Header> {
        let mut out = Vec::new();
        let source = Coordinates { topic: "T".into(), partition: 0, offset };
        Trace::of(headers, "app", &source).write_to(&mut out);
        out
    }

    fn text(header: &Header) -> String {
        String::from_utf8(header.value.clone().unwrap()).unwrap()
    }

    #[test]
    fn a_trace_goes_on_under_a_span_of_the_record() {
        let headers = [Header::new(TRACEPARENT, PARENT), Header::new(TRACESTATE, "a=1")];
        let out = trace(&headers, 1);
        assert!(text(&out[0]).starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(text(&out[0]).ends_with("-01") && text(&out[0]) != PARENT);
        assert_eq!(out[1], headers[1]);
        assert_eq!(out, trace(&headers, 1), "a second try writes the same");
        assert_ne!(out, trace(&headers, 2));
    }

    #[test]
    fn a_missing_or_malformed_parent_starts_a_new_trace() {
        let broken = [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ];
        let fresh = trace(&[], 1);
        assert_eq!(fresh.len(), 1);
        for parent in broken {
            let headers = [Header::new(TRACEPARENT, parent), Header::new(TRACESTATE, "a=1")];
            assert_eq!(trace(&headers, 1), fresh, "{parent}");
        }
        let null = [Header { name: TRACEPARENT.into(), value: None }];
        assert_eq!(trace(&null, 1), fresh);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let headers = [Header::new(TRACEPARENT, "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fd-what")];
        let out = text(&trace(&headers, 1)[0]);
        assert!(out.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && out.ends_with("-01"), "{out}");
    }
}
