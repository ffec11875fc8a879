use std::fmt;

use super::record::{Coordinates, Header, Record};

/// Headers of this prefix are the host's: nothing that a record brought is read from them.
pub const HEADER_PREFIX: &str = "switchboard-";

/// A reason is cut at this many bytes: a plugin's text may be of any length.
const MAX_REASON: usize = 4096;

/// Why a message became a dead letter, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The record cannot be read as a message: a tenant header is missing or malformed.
    Envelope,
    /// The plugin says that it can never be handled.
    Invalid,
    /// The plugin trapped.
    Trap,
    /// Over the CPU time of a message.
    Deadline,
    /// Over another limit: fuel, memory, state, number or size of outputs.
    Limit,
    /// An output that may not be sent, or that the broker refuses.
    Output,
    /// No answer to a lookup could be had.
    Lookup,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Invalid => "invalid",
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Limit => "limit",
            Self::Output => "output",
            Self::Lookup => "lookup",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The verdict on a message that cannot be handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    pub class: Class,
    /// For people.
    pub reason: String,
}

impl DeadLetter {
    pub fn new(class: Class, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > MAX_REASON {
            let end = (0..=MAX_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
            reason.truncate(end);
        }
        Self { class, reason }
    }

    /// The record of the dead-letter topic: the original unchanged (key, value, all headers in their order) and, after
    /// its own headers, six of the host's: `switchboard-class`, `-reason`, and the source `-topic` (token),
    /// `-partition`, `-offset`, `-timestamp` (milliseconds; empty when the record had none) as decimal text.
    pub fn to_record(&self, original: &Record, source: &Coordinates) -> Record {
        let mut headers = Vec::with_capacity(original.headers.len() + 6);
        headers.extend_from_slice(&original.headers);
        headers.extend(self.headers(original.timestamp, source));
        Record { key: original.key.clone(), value: original.value.clone(), headers, timestamp: None }
    }

    /// The same without key, value and headers of the original, whose coordinates say where to find it: for an
    /// original that the broker refuses to take as a dead letter.
    pub fn to_minimal_record(&self, original: &Record, source: &Coordinates) -> Record {
        Record { headers: self.headers(original.timestamp, source).into(), ..Record::default() }
    }

    fn headers(&self, timestamp: Option<i64>, source: &Coordinates) -> [Header; 6] {
        let header = |name: &str, value: String| Header::new(format!("{HEADER_PREFIX}{name}"), value);
        [
            header("class", self.class.to_string()),
            header("reason", self.reason.clone()),
            header("topic", source.topic.to_string()),
            header("partition", source.partition.to_string()),
            header("offset", source.offset.to_string()),
            header("timestamp", timestamp.map(|ms| ms.to_string()).unwrap_or_default()),
        ]
    }
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_original_is_unchanged_and_the_verdict_comes_after_it() {
        let original = Record {
            key: Some(vec![0xff, 0]),
            value: None,
            headers: vec![
                Header::new("a", "1"),
                Header { name: vec![0xc3], value: None },
                Header::new("a", ""),
                Header::new("switchboard-class", "of an earlier life"),
            ],
            timestamp: Some(7),
        };
        let source = Coordinates { topic: "T".into(), partition: 3, offset: 9 };
        let letter = DeadLetter::new(Class::Trap, "x".repeat(MAX_REASON - 1) + "äb");
        let record = letter.to_record(&original, &source);
        assert_eq!((&record.key, &record.value), (&original.key, &original.value));
        assert_eq!(record.headers[..4], original.headers);
        let own: Vec<_> = record.headers[4..]
            .iter()
            .map(|h| (String::from_utf8(h.name.clone()).unwrap(), String::from_utf8(h.value.clone().unwrap()).unwrap()))
            .collect();
        assert_eq!(own[0], ("switchboard-class".into(), "trap".into()));
        assert_eq!(own[1].1.len(), MAX_REASON - 1, "cut between characters");
        let rest: Vec<_> = own[2..].iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(rest, ["T", "3", "9", "7"]);
        assert_eq!(letter.to_minimal_record(&original, &source).headers, record.headers[4..]);
    }
}
