//! Why bytes are not a message of the contract, or not an answer of the directory.

use std::str::Utf8Error;

/// The first rule of the contract that the bytes break. The text becomes the reason of a dead letter.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("not UTF-8: {0}")]
    NotUtf8(#[from] Utf8Error),
    #[error("not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    #[error("not a JSON object")]
    NotObject,
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is given twice")]
    GivenTwice(&'static str),
    #[error("{field} is not {expected}")]
    WrongType {
        field: &'static str,
        /// With its article.
        expected: &'static str,
    },
    #[error("{field} is not a {integer}")]
    NotInteger {
        field: &'static str,
        /// The name of the Rust type.
        integer: &'static str,
    },
    #[error("{0} is not a topic of the messenger")]
    UnknownTopic(String),
}
