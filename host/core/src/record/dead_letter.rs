use std::fmt;

use super::headers::Headers;
use super::kafka_record::{Coordinates, Record};
use super::timestamp::Timestamp;

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
    /// The release that its tenant's route leads to consumes its topic, the one that the tenant stays on does not.
    Release,
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
            Self::Release => "release",
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
    /// its own headers, six of the host's: `switchboard-class`, `-reason`, and the source `-topic` (alias),
    /// `-partition`, `-offset`, `-timestamp` (milliseconds; empty when the record had none) as decimal text.
    pub fn to_record(&self, original: &Record, source: &Coordinates) -> Record {
        let mut headers = original.headers.clone();
        self.write_to(&mut headers, original.timestamp, source);
        Record { key: original.key.clone(), value: original.value.clone(), headers, timestamp: None }
    }

    /// The same without key, value and headers of the original, whose coordinates say where to find it: for an
    /// original that the broker refuses to take as a dead letter.
    pub fn to_minimal_record(&self, original: &Record, source: &Coordinates) -> Record {
        let mut headers = Headers::new();
        self.write_to(&mut headers, original.timestamp, source);
        Record { headers, ..Record::default() }
    }

    fn write_to(&self, headers: &mut Headers, timestamp: Option<Timestamp>, source: &Coordinates) {
        let mut add = |name: &str, value: &str| headers.add(format!("{HEADER_PREFIX}{name}"), value);
        add("class", self.class.as_str());
        add("reason", &self.reason);
        add("topic", &source.topic);
        add("partition", &source.partition.to_string());
        add("offset", &source.offset.to_string());
        add("timestamp", &timestamp.map(|timestamp| timestamp.to_string()).unwrap_or_default());
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
        let odd: [(&[u8], Option<&[u8]>); 4] = [
            (b"a", Some(b"1")),
            (b"\xc3", None),
            (b"a", Some(b"")),
            (b"switchboard-class", Some(b"of an earlier life")),
        ];
        let headers = odd.into_iter().collect();
        let original =
            Record { key: Some(vec![0xff, 0]), value: None, headers, timestamp: Some(Timestamp::from_millis(7)) };
        let source = Coordinates { topic: "T".into(), partition: 3.into(), offset: 9.into() };
        let letter = DeadLetter::new(Class::Trap, "x".repeat(MAX_REASON - 1) + "äb");
        let record = letter.to_record(&original, &source);
        assert_eq!((&record.key, &record.value), (&original.key, &original.value));
        assert_eq!(record.headers.iter().take(4).collect::<Headers>(), original.headers);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let own: Vec<_> = record.headers.iter().skip(4).map(|h| (text(h.name), text(h.value.unwrap()))).collect();
        assert_eq!(own[0], ("switchboard-class".into(), "trap".into()));
        assert_eq!(own[1].1.len(), MAX_REASON - 1, "cut between characters");
        let rest: Vec<_> = own[2..].iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(rest, ["T", "3", "9", "7"]);
        let minimal = letter.to_minimal_record(&original, &source);
        assert_eq!(minimal.headers, record.headers.iter().skip(4).collect());
    }
}
