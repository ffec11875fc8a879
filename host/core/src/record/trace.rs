//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>), as OpenTelemetry writes it into record headers.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::headers::Headers;
use super::kafka_record::Coordinates;

pub(super) const TRACEPARENT: &str = "traceparent";
pub(super) const TRACESTATE: &str = "tracestate";

/// The trace context of everything that one record causes: the record's trace, with the host's span as the parent.
///
/// The ids are derived from the record's coordinates, so that a retry writes the same ones. A missing or malformed
/// `traceparent` starts a new trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    trace_id: u128,
    span_id: u64,
    flags: u8,
    state: Option<Vec<u8>>,
}

impl Trace {
    /// The trace of a record with these headers. `app` distinguishes the spans of two applications that consume the
    /// same record.
    pub fn of(headers: &Headers, app: &str, origin: &Coordinates) -> Self {
        let mut hasher = SipHasher13::new();
        for text in [app, &origin.topic] {
            hasher.write(text.as_bytes());
            hasher.write_u8(0);
        }
        hasher.write_i32(origin.partition.get());
        hasher.write_i64(origin.offset.get());
        let derived = hasher.finish128();
        // The specification defines 0 as the invalid id.
        let span_id = derived.h1.max(1);

        let value = |name| headers.last(name).and_then(|header| header.value);
        match value(TRACEPARENT).and_then(parse) {
            Some((trace_id, flags)) => {
                let state = value(TRACESTATE).filter(|state| !state.is_empty()).map(<[u8]>::to_vec);
                Self { trace_id, span_id, flags, state }
            }
            None => Self { trace_id: derived.as_u128().max(1), span_id, flags: 1, state: None },
        }
    }

    /// Appends `traceparent`, and `tracestate` if the record had one.
    pub(super) fn write_to(&self, headers: &mut Headers) {
        let mut text = String::with_capacity(55);
        write!(text, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
            .expect("writing to a String does not fail");
        headers.add(TRACEPARENT, text);
        if let Some(state) = &self.state {
            headers.add(TRACESTATE, state);
        }
    }
}

/// The trace id and the flags of a `traceparent`. Of a later version only the flags of version 00 are kept.
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

    /// The trace headers of an output of a record with these.
    fn trace(parent: Option<&str>, state: Option<&str>, offset: u32) -> Vec<String> {
        let headers = [(TRACEPARENT, parent), (TRACESTATE, state)];
        let headers = headers.into_iter().filter(|(_, value)| value.is_some()).collect();
        let mut out = Headers::new();
        let source = Coordinates { topic: "T".into(), partition: 0.into(), offset: offset.into() };
        Trace::of(&headers, "app", &source).write_to(&mut out);
        out.iter().map(|header| String::from_utf8(header.value.unwrap().to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_trace_continues_under_a_span_of_the_record() {
        let out = trace(Some(PARENT), Some("a=1"), 1);
        assert!(out[0].starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        assert!(out[0].ends_with("-01") && out[0] != PARENT);
        assert_eq!(out[1], "a=1");
        assert_eq!(out, trace(Some(PARENT), Some("a=1"), 1), "a second try writes the same");
        assert_ne!(out, trace(Some(PARENT), Some("a=1"), 2));
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
        let fresh = trace(None, None, 1);
        assert_eq!(fresh.len(), 1);
        for parent in broken {
            assert_eq!(trace(Some(parent), Some("a=1"), 1), fresh, "{parent}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let out = trace(Some("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fd-what"), None, 1).remove(0);
        assert!(out.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && out.ends_with("-01"), "{out}");
    }
}
