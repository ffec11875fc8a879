//! A finding: one result of a check of the cluster. The checks at the start of `run` and those of `doctor` share this form.

use std::fmt;

use serde::Serialize;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works at a price, or could not be checked.
    Warning,
    /// Something does not work, or would lose data.
    Problem,
}

/// One line of a diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What was checked: `the topic app-switchboard-changelog`.
    pub subject: String,
    /// What was found.
    pub text: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    pub(crate) fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.into(), text: text.into(), fix: None }
    }

    pub(crate) fn warning(subject: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warning, subject: subject.into(), text: text.into(), fix: Some(fix.into()) }
    }

    pub(crate) fn problem(subject: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Problem, subject: subject.into(), text: text.into(), fix: Some(fix.into()) }
    }
}

/// Subject, text and fix as a sentence, for an error or a log line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.text)?;
        match &self.fix {
            Some(fix) => write!(f, ". {fix}"),
            None => Ok(()),
        }
    }
}
