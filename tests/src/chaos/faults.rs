//! What is done to hosts, brokers and the network between them: which fault comes next, from a seed, and how it begins and
//! ends.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use rustix::process::Signal;

use super::world::{BROKERS, SPARE, World};
use crate::proxy::{Api, Direction, Held, Weather};

/// Requests that are held back: those that change a transaction, its end above all.
const APIS: [Api; 6] =
    [Api::EndTxn, Api::EndTxn, Api::TxnOffsetCommit, Api::Produce, Api::AddPartitionsToTxn, Api::AddOffsetsToTxn];

/// Faults by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// SIGKILL, and started again at once.
    HostKilled,
    /// SIGKILL, and started again when the group has missed it.
    HostMissed,
    /// SIGSTOP past the session time-out, then SIGCONT: a zombie.
    HostPaused,
    /// The same past the transaction time-out.
    HostPausedLong,
    /// SIGTERM, and started again.
    HostRestarted,
    /// A further host comes, or goes.
    HostAddedOrRemoved,
    /// SIGKILL, and started again.
    BrokerKilled,
    /// SIGSTOP past its session with the controllers, then SIGCONT.
    BrokerPaused,
    /// SIGTERM, and started again.
    BrokerRestarted,
    /// All that goes to a broker and back takes longer.
    Slow,
    /// Connections are reset.
    Cut,
    /// One direction of connections ends.
    HalfClosed,
    /// What goes one way is lost without a word.
    Silent,
    /// A broker refuses connections.
    Refused,
    /// The connection of one request is reset, and the request arrives later.
    LateRequest,
}

impl Kind {
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

    /// For people.
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

    /// What it is done to, in the order in which faults begin: hosts, brokers, the network. Two faults at once are done to different things: two of three brokers are none.
    fn room(self) -> u8 {
        match self {
            Self::BrokerKilled | Self::BrokerPaused | Self::BrokerRestarted => 1,
            Self::Slow | Self::Cut | Self::HalfClosed | Self::Silent | Self::Refused | Self::LateRequest => 2,
            _ => 0,
        }
    }

    /// How long it lasts, at least and at most, in milliseconds.
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

/// A fault with all that is random about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// Which host or broker.
    target: usize,
    lasts: Duration,
    /// All brokers' connections instead of one's.
    everywhere: bool,
    delay: Duration,
    direction: Direction,
    api: Api,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.kind.name())?;
        match self.kind {
            Kind::LateRequest => write!(f, "{:?}", self.api)?,
            kind if kind.room() == 2 && self.everywhere => write!(f, "all")?,
            kind if kind.room() == 0 => write!(f, "host {}", self.target)?,
            _ => write!(f, "broker {}", self.target)?,
        }
        match self.kind {
            Kind::Slow => write!(f, ", {} ms", self.delay.as_millis())?,
            Kind::HalfClosed | Kind::Silent => write!(f, ", {:?}", self.direction)?,
            _ => {}
        }
        write!(f, ", {:.1} s)", self.lasts.as_secs_f64())
    }
}

/// What a fault has under way.
pub(super) type UnderWay = Option<Held>;

impl Fault {
    fn random(kind: Kind, random: &mut Rng) -> Self {
        let (least, most) = kind.lasts();
        let target = match kind {
            Kind::HostAddedOrRemoved => SPARE,
            kind if kind.room() == 0 => random.usize(..SPARE),
            _ => random.usize(..BROKERS),
        };
        Self {
            kind,
            target,
            lasts: Duration::from_millis(random.u64(least..=most)),
            everywhere: random.u8(..3) == 0,
            delay: Duration::from_millis(random.u64(20..400)),
            direction: if random.bool() { Direction::ToBroker } else { Direction::ToClient },
            api: APIS[random.usize(..APIS.len())],
        }
    }

    /// How long it is to last from its begin to its end.
    pub(super) fn lasts(&self) -> Duration {
        self.lasts
    }

    fn brokers(&self) -> std::ops::Range<usize> {
        if self.everywhere { 0..BROKERS } else { self.target..self.target + 1 }
    }

    fn weather(&self, world: &World, weather: Weather) {
        self.brokers().for_each(|broker| world.network.set(broker, weather));
    }

    fn cut(&self, world: &World) {
        self.brokers().for_each(|broker| world.network.cut(broker));
    }

    pub(super) fn begin(&self, world: &mut World) -> Result<UnderWay> {
        let target = self.target;
        match self.kind {
            Kind::HostKilled | Kind::HostMissed => world.load.fleet.kill(target)?,
            Kind::HostPaused | Kind::HostPausedLong => world.load.fleet.signal(target, Signal::STOP),
            Kind::HostRestarted => world.load.fleet.terminate(target),
            Kind::HostAddedOrRemoved if world.spare => world.load.fleet.terminate(target),
            Kind::HostAddedOrRemoved => world.load.fleet.start(target)?,
            Kind::BrokerKilled => world.load.kafka.kill(target)?,
            Kind::BrokerPaused => world.load.kafka.pause(target),
            Kind::BrokerRestarted => world.load.kafka.shut_down(target)?,
            Kind::Slow => self.weather(world, Weather::Slow(self.delay)),
            Kind::Cut => self.cut(world),
            Kind::HalfClosed => {
                self.brokers().for_each(|broker| world.network.half_close(broker, self.direction));
            }
            Kind::Silent => self.weather(world, Weather::Silent(self.direction)),
            Kind::Refused => {
                self.weather(world, Weather::Refused);
                self.cut(world);
            }
            Kind::LateRequest => {
                let held = world.network.hold(self.api);
                world.wait_for_held(&held)?;
                held.cut();
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    pub(super) fn end(&self, world: &mut World, under_way: UnderWay) -> Result<()> {
        let target = self.target;
        match self.kind {
            Kind::HostKilled | Kind::HostMissed => world.load.fleet.start(target)?,
            Kind::HostPaused | Kind::HostPausedLong => world.load.fleet.signal(target, Signal::CONT),
            Kind::HostRestarted => {
                world.load.fleet.wait(target)?;
                world.load.fleet.start(target)?;
            }
            Kind::HostAddedOrRemoved => {
                if world.spare {
                    world.load.fleet.wait(target)?;
                }
                world.spare = !world.spare;
            }
            Kind::BrokerKilled | Kind::BrokerRestarted => world.load.kafka.restart(target)?,
            Kind::BrokerPaused => world.load.kafka.resume(target),
            Kind::Slow | Kind::Silent | Kind::Refused => self.weather(world, Weather::Fair),
            Kind::Cut | Kind::HalfClosed => {}
            Kind::LateRequest => {
                if let Some(held) = under_way {
                    world.late.0 += 1;
                    // Err: the broker has closed the connection meanwhile.
                    world.late.1 += usize::from(held.deliver().is_ok());
                }
            }
        }
        Ok(())
    }
}

/// Deals faults so that each kind comes before any comes again.
#[derive(Debug)]
pub(super) struct Deck {
    random: Rng,
    kinds: Vec<Kind>,
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
            kinds.push(self.draw(|kind| kind.room() != first.room()));
        }
        kinds.sort_by_key(|kind| kind.room());
        kinds.into_iter().map(|kind| Fault::random(kind, &mut self.random)).collect()
    }

    fn draw(&mut self, fits: impl Fn(Kind) -> bool) -> Kind {
        loop {
            if let Some(place) = self.kinds.iter().rposition(|kind| fits(*kind)) {
                return self.kinds.remove(place);
            }
            let mut more = Kind::ALL;
            self.random.shuffle(&mut more);
            // Those that are left come first.
            self.kinds.splice(0..0, more);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_deals_the_same_faults_again_and_all_kinds_within_a_deck() {
        for seed in 0..100 {
            let deal = || {
                let mut deck = Deck::new(seed);
                (0..Kind::ALL.len()).flat_map(|_| deck.deal()).collect::<Vec<_>>()
            };
            let faults = deal();
            let told = |faults: &[Fault]| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(told(&faults), told(&deal()));
            assert_eq!(faults.iter().map(|fault| fault.kind).collect::<BTreeSet<_>>().len(), Kind::ALL.len());
        }
    }
}
