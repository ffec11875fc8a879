//! The health gate: does a release that was deployed recently fail so often that its route is rolled back?
//!
//! A gate counts the messages that this host's workers have committed.
//!
//! * A failure counts one: a trap, a limit, a deadline, an output that may not be sent, a tenant's state that the
//!   release cannot take over. A sound plugin has none of these.
//! * A rejection (the plugin calls a message invalid) depends on the input. Only rejections beyond the rate of the
//!   replaced release count. If this host has seen fewer than `MIN_SAMPLE_MESSAGES` messages of the replaced release,
//!   rejections do not count.
//!
//! A gate's time starts when its route is set. A host that starts later does not extend that time.

use std::collections::BTreeMap;
use std::time::Duration;

use switchboard_core::record::{Offset, Timestamp};
use switchboard_core::registry::{RegistryState, RouteEntry, Scope};
use switchboard_core::routing::{Digest, Gate, Route};

use super::health::{Counts, ReleaseHealth};

/// A release that has failed its gate, and the route to roll back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailingRelease {
    pub(super) release: Digest,
    /// The offset of the route's record.
    pub(super) offset: Offset,
    pub(super) reason: String,
    /// Whether there is a release to roll back to.
    pub(super) has_previous: bool,
}

/// The gate of one route.
#[derive(Debug)]
struct GateState {
    gate: Gate,
    /// When the route was set.
    set_at: Timestamp,
    /// The release's counts at that time.
    baseline: Counts,
    /// The share of its messages that the replaced release rejects, if known.
    usual_rejection_rate: Option<f64>,
    is_open: bool,
}

/// The fewest messages of the replaced release that give a rejection rate.
const MIN_SAMPLE_MESSAGES: u64 = 100;

/// The gates of all routes, by scope and the offset of the route's record.
#[derive(Debug, Default)]
pub(super) struct Gates(BTreeMap<(Scope, Offset), GateState>);

impl Gates {
    /// Adds the gates of new routes and removes those of routes that are gone. Call it before the workers apply the
    /// routes. `base`: the configured plugin, which runs where there is no route.
    pub(super) fn update(
        &mut self,
        registry: &RegistryState,
        health: &ReleaseHealth,
        base: Option<Digest>,
        now: Timestamp,
    ) {
        let routed: Vec<_> = registry.routed().collect();
        self.0.retain(|key, _| routed.iter().any(|route| (&route.scope, route.offset) == (&key.0, key.1)));
        for RouteEntry { scope, value, offset } in routed {
            let Route { release, previous, gate: Some(gate) } = value.route() else { continue };
            let usual_rejection_rate = previous.or(base).and_then(|previous| rejection_rate(&health.counts(&previous)));
            let set_at = registry.routed_at(&scope).unwrap_or(now);
            let state = GateState {
                gate: *gate,
                set_at,
                baseline: health.counts(release),
                usual_rejection_rate,
                is_open: !is_expired(gate, set_at, now),
            };
            self.0.entry((scope, offset)).or_insert(state);
        }
    }

    /// Releases that have failed their gates. Each is returned once: its gate closes.
    pub(super) fn take_failing(
        &mut self,
        registry: &RegistryState,
        health: &ReleaseHealth,
        now: Timestamp,
    ) -> Vec<FailingRelease> {
        let mut failing = Vec::new();
        for RouteEntry { scope, value, offset } in registry.routed() {
            let Route { release, previous, .. } = *value.route();
            let Some(state) = self.0.get_mut(&(scope, offset)).filter(|state| state.is_open) else { continue };
            if let Some(mut reason) = state.judge(&health.counts(&release), now) {
                state.is_open = false;
                if let Some(first) = health.first_failure(&release) {
                    reason = format!("{reason}; the first failure: {first}");
                }
                failing.push(FailingRelease { release, offset, reason, has_previous: previous.is_some() });
            }
        }
        failing
    }
}

impl GateState {
    /// Why the release has failed the gate, if it has. Closes the gate when its messages or its time are used up.
    fn judge(&mut self, counts: &Counts, now: Timestamp) -> Option<String> {
        let Counts { messages, failures, rejections } = counts.since(&self.baseline);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let usual = self.usual_rejection_rate.map(|rate| (rate * messages as f64).ceil() as u64);
        let unusual = usual.map_or(0, |usual| rejections.saturating_sub(usual));
        if failures + unusual >= self.gate.failures {
            let rejected = match unusual {
                0 => String::new(),
                _ => format!(", and {unusual} more rejections than usual"),
            };
            return Some(format!("{failures} failures among its first {messages} messages{rejected}"));
        }
        self.is_open = messages < self.gate.messages && !is_expired(&self.gate, self.set_at, now);
        None
    }
}

fn is_expired(gate: &Gate, set_at: Timestamp, now: Timestamp) -> bool {
    now.saturating_since(set_at) >= Duration::from_secs(gate.seconds)
}

#[allow(clippy::cast_precision_loss)]
fn rejection_rate(counts: &Counts) -> Option<f64> {
    (counts.messages >= MIN_SAMPLE_MESSAGES).then(|| counts.rejections as f64 / counts.messages as f64)
}

#[cfg(test)]
mod tests {
    use switchboard_core::record::TenantId;
    use switchboard_core::routing::Manifest;
    use switchboard_core::routing::Release;
    use switchboard_core::worker::Observer as _;

    use super::*;

    /// A release has been routed to all tenants since the time 5000, with a gate of 3 failures within 60 s, and fails
    /// three times. Returns whether it fails its gate on a host that started at `started`.
    fn failing(started: i64, now: i64) -> Vec<FailingRelease> {
        let (mut registry, health, mut gates) = (RegistryState::default(), ReleaseHealth::default(), Gates::default());
        let digest = Digest::new([1; 32]);
        let route = format!(r#"{{"release":"{digest}","gate":{{"failures":3,"messages":100,"seconds":60}}}}"#);
        registry.apply(7.into(), Timestamp::from_millis(5000), b"route/default", Some(route.as_bytes())).unwrap();
        gates.update(&registry, &health, None, Timestamp::from_millis(started));
        let manifest = Manifest {
            name: "plugin".into(),
            version: "1.0.0".into(),
            consumes: vec![],
            produces: vec![],
            lookups: vec![],
            state_version: 1,
        };
        let (release, mut observer) = (Release::new(digest, manifest), health.observer());
        for tenant in ["a", "b", "c"] {
            observer.refused(&TenantId::new(tenant), &release, "no");
        }
        gates.take_failing(&registry, &health, Timestamp::from_millis(now))
    }

    #[test]
    fn a_gates_time_starts_with_its_route_and_not_with_the_host() {
        let failed = failing(5000, 6000);
        assert_eq!((failed.len(), failed[0].offset), (1, 7.into()));
        assert!(failed[0].reason.contains("3 failures") && failed[0].reason.contains("no (tenant a)"), "{failed:?}");
        assert_eq!(failing(64_000, 64_500).len(), 1, "a host that started within the time");
        assert_eq!(failing(65_000, 65_000), [], "one that started after it");
    }

    fn gate_state(usual_rejection_rate: Option<f64>) -> GateState {
        let gate = Gate { failures: 3, messages: 100, seconds: 60 };
        let baseline = Counts { messages: 1000, failures: 7, rejections: 50 };
        GateState { gate, set_at: Timestamp::from_millis(5000), baseline, usual_rejection_rate, is_open: true }
    }

    fn after(messages: u64, failures: u64, rejections: u64) -> Counts {
        Counts { messages: 1000 + messages, failures: 7 + failures, rejections: 50 + rejections }
    }

    #[test]
    fn each_failure_counts_and_so_do_rejections_beyond_the_usual_rate() {
        for (usual, messages, failures, rejections, fails) in [
            (Some(0.0), 50, 2, 0, false),
            (Some(0.0), 50, 3, 0, true),
            (Some(0.0), 50, 2, 1, true),
            (Some(0.1), 50, 2, 5, false),
            (Some(0.1), 50, 2, 6, true),
            (Some(0.1), 50, 0, 7, false),
            (Some(0.1), 50, 0, 8, true),
            (None, 50, 2, 48, false),
            (None, 50, 3, 0, true),
        ] {
            let mut state = gate_state(usual);
            let now = state.set_at;
            let reason = state.judge(&after(messages, failures, rejections), now);
            assert_eq!(reason.is_some(), fails, "{usual:?} {failures} {rejections}: {reason:?}");
        }
    }

    #[test]
    fn a_gate_closes_after_its_messages_or_its_time() {
        let mut first = gate_state(Some(0.0));
        let set_at = first.set_at;
        assert_eq!(first.judge(&after(99, 0, 0), set_at), None);
        assert!(first.is_open);
        assert_eq!(first.judge(&after(100, 0, 0), set_at), None);
        assert!(!first.is_open, "its messages are used up");
        let mut second = gate_state(Some(0.0));
        assert_eq!(second.judge(&after(1, 0, 0), set_at.saturating_add(Duration::from_secs(61))), None);
        assert!(!second.is_open, "its time is over");
    }
}
