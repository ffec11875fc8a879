//! A consumer whose queue can be looked at.

use std::ops::Deref;

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka_sys as rdsys;

/// A consumer that tells whether its queue is empty.
///
/// rdkafka's `poll` does not tell: it also finds nothing when it took a log line or a rebalance from the queue.
pub(crate) struct QueuedConsumer<C: ConsumerContext> {
    queue: *mut rdsys::rd_kafka_queue_t,
    consumer: BaseConsumer<C>,
}

// SAFETY: `BaseConsumer` may move between threads, and librdkafka locks a queue at each use.
unsafe impl<C: ConsumerContext> Send for QueuedConsumer<C> where BaseConsumer<C>: Send {}

impl<C: ConsumerContext> QueuedConsumer<C> {
    /// `filled` is called whenever an empty queue gets its first entry, by a thread of librdkafka that holds the queue's lock.
    /// So it must be short, and must not use the consumer.
    ///
    /// # Panics
    /// When the consumer has no `group.id`.
    pub(crate) fn new(mut consumer: BaseConsumer<C>, filled: impl Fn() + Send + Sync + 'static) -> Self {
        consumer.set_nonempty_callback(filled);
        // SAFETY: the client outlives the call. The reference to the queue is ours, or null without a group.
        let queue = unsafe { rdsys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        assert!(!queue.is_null(), "a consumer with a group.id has a queue");
        Self { queue, consumer }
    }

    /// Whether nothing waits in the queue. This only takes a lock. A poll of an empty queue also waits for a condition variable.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: the reference is ours until `drop`.
        unsafe { rdsys::rd_kafka_queue_length(self.queue) == 0 }
    }
}

impl<C: ConsumerContext> Deref for QueuedConsumer<C> {
    type Target = BaseConsumer<C>;

    fn deref(&self) -> &BaseConsumer<C> {
        &self.consumer
    }
}

impl<C: ConsumerContext> Drop for QueuedConsumer<C> {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed only here, and before the client that it belongs to.
        unsafe { rdsys::rd_kafka_queue_destroy(self.queue) };
    }
}
