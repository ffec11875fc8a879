//! Why a call to Kafka failed, and what follows from it.

/// The code of an error in Kafka's protocol. Negative codes are the client library's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KafkaErrorCode(i32);

impl KafkaErrorCode {
    /// The error of this code.
    pub const fn new(code: i32) -> Self {
        Self(code)
    }

    /// Whether a topic does not exist (UNKNOWN_TOPIC_OR_PARTITION), or this client may not use it (TOPIC_AUTHORIZATION_FAILED).
    pub(super) const fn is_of_a_topic(self) -> bool {
        matches!(self.0, 3 | 29)
    }

    /// The code.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Cause {
    /// For people.
    pub text: String,
    /// For programs, where there is one.
    pub code: Option<KafkaErrorCode>,
}

impl Cause {
    /// A cause with this text and code.
    pub fn new(text: impl Into<String>, code: Option<KafkaErrorCode>) -> Self {
        Self { text: text.into(), code }
    }
}

impl From<String> for Cause {
    fn from(text: String) -> Self {
        Self { text, code: None }
    }
}

impl From<&str> for Cause {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// There is no answer at the moment. Ask again later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotNow(pub Cause);

/// How a transactional call failed. It says what to do next, never which record to skip.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Repeat the same call.
    #[error("{0}")]
    Retriable(Cause),
    /// The broker refuses a record as such: it is too large or invalid, its topic does not exist, or writing is not allowed.
    /// Abort.
    #[error("the broker refuses a record: {0}")]
    Refused(Cause),
    /// The call took too long. Abort. A smaller transaction may succeed.
    #[error("timed out: {0}")]
    TimedOut(Cause),
    /// Abort. The same results can be sent again.
    #[error("{0}")]
    Abortable(Cause),
    /// The producer is unusable, or the outcome is unknown.
    #[error("{0}")]
    Fatal(Cause),
    /// The group does not accept our offsets. Start again from what is committed.
    #[error("not a member of the group any more: {0}")]
    NotAMember(Cause),
    /// The producer's epoch is no longer valid. Another producer has our transactional id, or the coordinator aborted a
    /// transaction that was open for longer than `transaction.timeout.ms`.
    #[error("fenced: {0}")]
    Fenced(Cause),
    /// Another member has our static identity.
    #[error("fenced: {0}")]
    FencedInstance(Cause),
}

impl Fault {
    /// Why the call failed.
    pub fn cause(&self) -> &Cause {
        match self {
            Self::Retriable(cause)
            | Self::Refused(cause)
            | Self::TimedOut(cause)
            | Self::Abortable(cause)
            | Self::Fatal(cause)
            | Self::NotAMember(cause)
            | Self::Fenced(cause)
            | Self::FencedInstance(cause) => cause,
        }
    }
}
