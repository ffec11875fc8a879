//! A tenant's wasm instance: how it is made, and how it handles a message.

use std::borrow::Cow;
use std::sync::Arc;

use switchboard_core::record::{Header, Outbound};
use switchboard_core::routing::Digest;
use switchboard_core::state::TenantState;
use switchboard_core::worker::{Answers, Call, Outcome};
use wasmtime::Store;

use crate::artifact::Artifact;
use crate::bindings::contract::exports::switchboard::plugin::handler;
use crate::bindings::contract::switchboard::plugin::types::{self, HeaderParam, HeaderResult, Message, Rejection};
use crate::guest::{Guest, MessageContext, new_store, refuel};
use crate::guest_log::LogBudget;
use crate::limits::Limits;
use crate::linked::Exports;
use crate::trap::{OutOfMemory, outcome_of};
use crate::warm_instances::Counted;

/// An instance of one release, for one tenant.
pub(crate) struct WasmInstance {
    pub(crate) release: Digest,
    store: Store<Guest>,
    handler: handler::Guest,
    /// Bytes of memory when the instance was new.
    initial_bytes: usize,
    /// Counts the instance, and by how much its memories have grown.
    counted: Counted,
}

/// One message's call of a plugin, with everything that the plugin can reach.
pub(crate) struct Invocation<'a> {
    pub(crate) artifact: &'a Artifact,
    pub(crate) call: Call<'a>,
    pub(crate) message: Message<'a>,
    pub(crate) state: &'a mut TenantState,
    pub(crate) answers: &'a Answers,
}

impl WasmInstance {
    /// The error is the outcome of the message that needs the instance.
    pub(crate) fn new(
        limits: &Limits,
        invocation: &Invocation<'_>,
        budget: &mut LogBudget,
        counted: Counted,
    ) -> Result<Self, Result<Outcome, OutOfMemory>> {
        let artifact = invocation.artifact;
        let tenant = invocation.call.tenant.id.clone();
        let guest = Guest::new(Arc::clone(artifact.title()), tenant, *limits, *budget);
        let mut store = new_store(artifact.linked().engine(), guest);
        let exports = artifact.linked().instantiate(&mut store);
        (_, *budget) = store.data_mut().end_call();
        let failed = |error: wasmtime::Error| outcome_of(&error, limits.fuel, store.data().stderr_tail());
        let Exports { handler, .. } = exports.map_err(failed)?;
        let initial_bytes = store.data().limiter.used_bytes();
        Ok(Self { release: artifact.digest(), store, handler, initial_bytes, counted })
    }

    /// Handles a message. After anything but outputs, the caller has to drop the instance.
    pub(crate) fn call(
        &mut self,
        limits: &Limits,
        invocation: &mut Invocation<'_>,
        budget: &mut LogBudget,
    ) -> Result<Outcome, OutOfMemory> {
        let Invocation { call, message, state, answers, .. } = invocation;
        // A store's data outlives the call, so it cannot borrow: the state moves in and out.
        let context =
            MessageContext { answers: answers.clone(), source: call.origin.clone(), timestamp: message.timestamp };
        self.store.data_mut().begin_message(std::mem::take(*state), context, *budget);
        let result =
            refuel(&mut self.store, limits).and_then(|()| self.handler.call_handle(&mut self.store, message.clone()));
        let guest = self.store.data_mut();
        let (lent, left) = guest.end_call();
        *budget = left;
        if let Some(lent) = lent {
            **state = lent;
        }
        self.counted.set_grown((guest.limiter.used_bytes() - self.initial_bytes) as u64);
        match result {
            Ok(Ok(outputs)) => Ok(Outcome::Outputs(outputs.into_iter().map(outbound).collect())),
            Ok(Err(Rejection::Invalid(reason))) => Ok(Outcome::Rejected(reason)),
            Ok(Err(Rejection::UnusableAnswer(reason))) => Ok(Outcome::UnusableAnswer(reason)),
            Err(error) => outcome_of(&error, limits.fuel, guest.stderr_tail()),
        }
    }
}

pub(crate) fn message<'a>(call: &Call<'a>, headers: &'a [HeaderParam<'a>]) -> Message<'a> {
    Message {
        topic: &call.origin.topic,
        tenant: call.tenant.id.as_str(),
        key: call.record.key.as_deref(),
        value: call.record.value.as_deref(),
        headers,
        timestamp: call.record.timestamp.and_then(|time| time.as_millis().try_into().ok()).unwrap_or(0),
    }
}

pub(crate) fn header<'a>((Header { value, .. }, name): (Header<'a>, &'a Cow<'a, str>)) -> HeaderParam<'a> {
    HeaderParam { name, value }
}

fn outbound(output: types::Outbound) -> Outbound {
    let types::Outbound { topic, key, value, headers } = output;
    let header = |HeaderResult { name, value }| (name, value);
    Outbound { topic, key, value, headers: headers.into_iter().map(header).collect() }
}
