//! What does an error of a consumer mean for the worker?

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use switchboard_checkpoint::ThrottledWarn;
use switchboard_core::worker::Event;

use super::convert;

/// Turns the errors of one consumer into events, or into log lines where librdkafka tries again by itself.
pub(super) struct ConsumerErrors {
    group: String,
    trouble: ThrottledWarn,
}

impl ConsumerErrors {
    /// For a consumer of this group.
    pub(super) fn new(group: &str) -> Self {
        Self { group: group.to_owned(), trouble: ThrottledWarn::default() }
    }

    /// The event that follows from an error of a member of the group. `has_timed_out`: whether its session timed out once.
    pub(super) fn of_member(&mut self, error: &KafkaError, repartition: &str, has_timed_out: bool) -> Option<Event> {
        match error {
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) if has_timed_out => {
                let text = "the session timed out, and a late heartbeat of the previous member fenced this one";
                Some(Event::Failed(convert::cause(text.into(), error)))
            }
            KafkaError::MessageConsumptionFatal(Code::FencedInstanceId) => {
                Some(Event::Fenced(convert::cause("another member has this group instance id".into(), error)))
            }
            KafkaError::MessageConsumption(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                self.trouble.report(error.to_string(), || {
                    tracing::warn!(topic = %repartition, "the repartition topic does not exist; waiting for it");
                });
                None
            }
            other => self.of_any(other, repartition),
        }
    }

    /// The event that follows from an error of the consumer of these source topics.
    pub(super) fn of_source_reader(&mut self, error: &KafkaError, topics: &str) -> Option<Event> {
        match error {
            KafkaError::MessageConsumption(
                Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition,
            ) => {
                self.trouble.report(error.to_string(), || {
                    tracing::warn!(%topics, "a source topic or one of its partitions does not exist any more; retrying");
                });
                None
            }
            other => self.of_any(other, topics),
        }
    }

    fn of_any(&mut self, error: &KafkaError, topics: &str) -> Option<Event> {
        match error {
            KafkaError::MessageConsumptionFatal(code) => {
                let text = format!("the consumer failed and has to be created again: {code}");
                return Some(Event::Failed(convert::cause(text, error)));
            }
            KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                let text = "records were deleted before they were read";
                return Some(Event::Failed(convert::cause(text.into(), error)));
            }
            KafkaError::MessageConsumption(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed) => {
                self.trouble.report(error.to_string(), || {
                    tracing::warn!(
                        group = %self.group,
                        %topics,
                        "not allowed: this client needs READ on the group and on the topics; retrying"
                    );
                });
            }
            // The client's context reports it when it lasts.
            KafkaError::MessageConsumption(Code::AllBrokersDown | Code::BrokerTransportFailure | Code::Resolve) => {}
            other => {
                self.trouble.report(other.to_string(), || tracing::warn!(error = %other, "consuming failed; retrying"));
            }
        }
        None
    }
}
