//! The faults of hosts, brokers and the network between them: which fault comes next, from a seed, and how each begins
//! and ends.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use rustix::process::Signal;

use super::world::{BROKERS, SPARE_HOST, World};
use crate::proxy::{Api, Direction, HeldRequest, LinkState};

/// The APIs whose requests are held back: those that change a transaction. Its end is twice as likely as the others.
const HELD_BACK_APIS: [Api; 6] =
    [Api::EndTxn, Api::EndTxn, Api::TxnOffsetCommit, Api::Produce, Api::AddPartitionsToTxn, Api::AddOffsetsToTxn];

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FaultKind {
    /// SIGKILL, and a restart at once.
    HostKilled,
    /// SIGKILL, and a restart after the end of its session.
    HostMissed,
    /// SIGSTOP for longer than the session time-out, then SIGCONT: a zombie.
    HostPaused,
    /// The same for longer than the transaction time-out.
    HostPausedLong,
    /// SIGTERM, and a restart.
    HostRestarted,
    /// A further host joins or leaves.
    HostAddedOrRemoved,
    /// SIGKILL, and a restart.
    BrokerKilled,
    /// SIGSTOP for longer than its session with the controllers, then SIGCONT.
    BrokerPaused,
    /// SIGTERM, and a restart.
    BrokerRestarted,
    /// All transfers to and from a broker take longer.
    Slow,
    /// Connections are reset.
    Cut,
    /// One direction of connections ends.
    HalfClosed,
    /// Bytes in one direction are lost, and the connections stay open.
    Silent,
    /// A broker refuses connections.
    Refused,
    /// The connection of a request is reset, and the request arrives later.
    LateRequest,
}

impl FaultKind {
    pub(super) const ALL: [Self; 15] = [
        Self::HostKilled,
        Self::HostMissed,
        Self::HostPaused,
        Self::HostPausedLong,
        Self::HostRestarted,
        Self::HostAddedOrRemoved,
        Self::BrokerKilled,
        Self::BrokerPaused,
        Self::BrokerRestarted,
        Self::Slow,
        Self::Cut,
        Self::HalfClosed,
        Self::Silent,
        Self::Refused,
        Self::LateRequest,
    ];

    /// The kind's name, for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HostKilled => "host killed, started at once",
            Self::HostMissed => "host killed, started late",
            Self::HostPaused => "host paused past its session",
            Self::HostPausedLong => "host paused past its transaction",
            Self::HostRestarted => "host restarted",
            Self::HostAddedOrRemoved => "host added or removed",
            Self::BrokerKilled => "broker killed",
            Self::BrokerPaused => "broker paused past its session",
            Self::BrokerRestarted => "broker restarted",
            Self::Slow => "connections slow",
            Self::Cut => "connections cut",
            Self::HalfClosed => "connections half closed",
            Self::Silent => "connections silent one way",
            Self::Refused => "connections refused",
            Self::LateRequest => "request delivered late",
        }
    }

    fn affected(self) -> Affected {
        match self {
            Self::BrokerKilled | Self::BrokerPaused | Self::BrokerRestarted => Affected::Broker,
            Self::Slow | Self::Cut | Self::HalfClosed | Self::Silent | Self::Refused | Self::LateRequest => {
                Affected::Network
            }
            _ => Affected::Host,
        }
    }

    /// The minimum and maximum duration, in milliseconds.
    fn lasts(self) -> (u64, u64) {
        match self {
            Self::HostKilled | Self::HostRestarted | Self::HostAddedOrRemoved | Self::HalfClosed => (0, 300),
            Self::Cut => (0, 1500),
            Self::HostMissed | Self::HostPaused => (3200, 4500),
            Self::HostPausedLong => (11_000, 12_000),
            Self::BrokerKilled | Self::BrokerRestarted => (0, 3000),
            Self::BrokerPaused => (3200, 4500),
            Self::Slow => (500, 2500),
            Self::Silent | Self::Refused => (500, 2500),
            Self::LateRequest => (50, 2500),
        }
    }
}

/// The part that a fault affects, in the order in which faults begin. Two faults at once affect different parts: with
/// two of three brokers down the cluster would not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Affected {
    Host,
    Broker,
    Network,
}

/// A fault with all its random choices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    /// The number of the host or broker.
    target: usize,
    lasts: Duration,
    /// Whether the fault affects the connections of all brokers.
    everywhere: bool,
    delay: Duration,
    direction: Direction,
    api: Api,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.kind.name())?;
        match self.kind {
            FaultKind::LateRequest => write!(f, "{:?}", self.api)?,
            kind if kind.affected() == Affected::Network && self.everywhere => write!(f, "all")?,
            kind if kind.affected() == Affected::Host => write!(f, "host {}", self.target)?,
            _ => write!(f, "broker {}", self.target)?,
        }
        match self.kind {
            FaultKind::Slow => write!(f, ", {} ms", self.delay.as_millis())?,
            FaultKind::HalfClosed | FaultKind::Silent => write!(f, ", {:?}", self.direction)?,
            _ => {}
        }
        write!(f, ", {:.1} s)", self.lasts.as_secs_f64())
    }
}

impl Fault {
    fn random(kind: FaultKind, random: &mut Rng) -> Self {
        let (least, most) = kind.lasts();
        let target = match kind {
            FaultKind::HostAddedOrRemoved => SPARE_HOST,
            kind if kind.affected() == Affected::Host => random.usize(..SPARE_HOST),
            _ => random.usize(..BROKERS),
        };
        Self {
            kind,
            target,
            lasts: Duration::from_millis(random.u64(least..=most)),
            everywhere: random.u8(..3) == 0,
            delay: Duration::from_millis(random.u64(20..400)),
            direction: if random.bool() { Direction::ToBroker } else { Direction::ToClient },
            api: HELD_BACK_APIS[random.usize(..HELD_BACK_APIS.len())],
        }
    }

    /// The time from its begin to its end.
    pub(super) fn lasts(&self) -> Duration {
        self.lasts
    }

    fn brokers(&self) -> std::ops::Range<usize> {
        if self.everywhere { 0..BROKERS } else { self.target..self.target + 1 }
    }

    fn set_links(&self, world: &World, state: LinkState) {
        self.brokers().for_each(|broker| world.network.set(broker, state));
    }

    fn cut(&self, world: &World) {
        self.brokers().for_each(|broker| world.network.cut(broker));
    }

    /// Begins the fault. Returns the request that it holds back, if it holds one back.
    pub(super) fn begin(&self, world: &mut World) -> Result<Option<HeldRequest>> {
        let target = self.target;
        match self.kind {
            FaultKind::HostKilled | FaultKind::HostMissed => world.load.fleet.kill(target)?,
            FaultKind::HostPaused | FaultKind::HostPausedLong => world.load.fleet.signal(target, Signal::STOP),
            FaultKind::HostRestarted => world.load.fleet.terminate(target),
            FaultKind::HostAddedOrRemoved if world.spare => world.load.fleet.terminate(target),
            FaultKind::HostAddedOrRemoved => world.load.fleet.start(target)?,
            FaultKind::BrokerKilled => world.load.kafka.kill(target)?,
            FaultKind::BrokerPaused => world.load.kafka.pause(target),
            FaultKind::BrokerRestarted => world.load.kafka.shut_down(target)?,
            FaultKind::Slow => self.set_links(world, LinkState::Slow(self.delay)),
            FaultKind::Cut => self.cut(world),
            FaultKind::HalfClosed => {
                self.brokers().for_each(|broker| world.network.half_close(broker, self.direction));
            }
            FaultKind::Silent => self.set_links(world, LinkState::Silent(self.direction)),
            FaultKind::Refused => {
                self.set_links(world, LinkState::Refused);
                self.cut(world);
            }
            FaultKind::LateRequest => {
                let held = world.network.hold(self.api);
                world.wait_for_held(&held)?;
                held.cut();
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Ends the fault. `held` is the request that [`Self::begin`] has returned.
    pub(super) fn end(&self, world: &mut World, held: Option<HeldRequest>) -> Result<()> {
        let target = self.target;
        match self.kind {
            FaultKind::HostKilled | FaultKind::HostMissed => world.load.fleet.start(target)?,
            FaultKind::HostPaused | FaultKind::HostPausedLong => world.load.fleet.signal(target, Signal::CONT),
            FaultKind::HostRestarted => {
                world.load.fleet.wait(target)?;
                world.load.fleet.start(target)?;
            }
            FaultKind::HostAddedOrRemoved => {
                if world.spare {
                    world.load.fleet.wait(target)?;
                }
                world.spare = !world.spare;
            }
            FaultKind::BrokerKilled | FaultKind::BrokerRestarted => world.load.kafka.restart(target)?,
            FaultKind::BrokerPaused => world.load.kafka.resume(target),
            FaultKind::Slow | FaultKind::Silent | FaultKind::Refused => self.set_links(world, LinkState::Healthy),
            FaultKind::Cut | FaultKind::HalfClosed => {}
            FaultKind::LateRequest => {
                if let Some(held) = held {
                    world.late_requests.held_back += 1;
                    // Err: the broker has closed the connection meanwhile.
                    world.late_requests.answered += usize::from(held.deliver().is_ok());
                }
            }
        }
        Ok(())
    }
}

/// Deals faults so that each kind comes once before any kind repeats.
#[derive(Debug)]
pub(super) struct Deck {
    random: Rng,
    kinds: Vec<FaultKind>,
}

impl Deck {
    pub(super) fn new(seed: u64) -> Self {
        Self { random: Rng::with_seed(seed), kinds: Vec::new() }
    }

    /// The faults of the next cycle: one, or two at once.
    pub(super) fn deal(&mut self) -> Vec<Fault> {
        let first = self.draw(|_| true);
        let mut kinds = vec![first];
        if self.random.bool() {
            kinds.push(self.draw(|kind| kind.affected() != first.affected()));
        }
        kinds.sort_by_key(|kind| kind.affected());
        kinds.into_iter().map(|kind| Fault::random(kind, &mut self.random)).collect()
    }

    fn draw(&mut self, fits: impl Fn(FaultKind) -> bool) -> FaultKind {
        loop {
            if let Some(index) = self.kinds.iter().rposition(|kind| fits(*kind)) {
                return self.kinds.remove(index);
            }
            let mut more = FaultKind::ALL;
            self.random.shuffle(&mut more);
            // The remaining kinds come first.
            self.kinds.splice(0..0, more);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_always_deals_the_same_faults_and_a_deck_has_all_kinds() {
        for seed in 0..100 {
            let deal = || {
                let mut deck = Deck::new(seed);
                (0..FaultKind::ALL.len()).flat_map(|_| deck.deal()).collect::<Vec<_>>()
            };
            let faults = deal();
            let texts = |faults: &[Fault]| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(texts(&faults), texts(&deal()));
            assert_eq!(faults.iter().map(|fault| fault.kind).collect::<BTreeSet<_>>().len(), FaultKind::ALL.len());
        }
    }
}
