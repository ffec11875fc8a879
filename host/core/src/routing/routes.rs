//! Routes, and the table that resolves a tenant to its route.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher as _;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use siphasher::sip::SipHasher13;

use super::digest::Digest;
use crate::record::{Offset, TenantId};

/// A route: a release and what it replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// The release that its tenants run.
    pub release: Digest,
    /// What these tenants ran before. A rollback of a failing release goes back to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// The health gate that rolls the route back. `None`: only an operator does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
}

/// A health gate: at how many failures a new release is rolled back automatically.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gate {
    /// This many failures ...
    pub failures: u64,
    /// ... among this many first messages ...
    pub messages: u64,
    /// ... within this many seconds roll the release back.
    pub seconds: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { failures: 10, messages: 1000, seconds: 600 }
    }
}

/// A percentage of all tenants, in steps of 0.01 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

/// A text that is not a percentage.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a percentage: give a number from 0.01 to 100 with at most two decimals")]
pub struct PercentError(String);

impl Percent {
    /// 100 % in steps of 0.01 %.
    const ALL: u16 = 10_000;

    /// Whether the percentage of a release includes a tenant. The decision depends on the release and the tenant
    /// alone, so a growing percentage only adds tenants.
    pub fn includes(self, release: &Digest, tenant: &TenantId) -> bool {
        let mut hasher = SipHasher13::new();
        hasher.write(release.bytes());
        hasher.write(tenant.as_str().as_bytes());
        hasher.finish() % u64::from(Self::ALL) < u64::from(self.0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, parts) = (self.0 / 100, self.0 % 100);
        match parts {
            0 => write!(f, "{whole}"),
            parts if parts % 10 == 0 => write!(f, "{whole}.{}", parts / 10),
            parts => write!(f, "{whole}.{parts:02}"),
        }
    }
}

impl FromStr for Percent {
    type Err = PercentError;

    fn from_str(text: &str) -> Result<Self, PercentError> {
        let error = || PercentError(text.to_owned());
        let (whole, parts) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 3 || parts.len() > 2 || !digits(whole) || !digits(parts) {
            return Err(error());
        }
        let parts: u16 = format!("{parts:0<2}").parse().map_err(|_| error())?;
        let whole: u16 = whole.parse().map_err(|_| error())?;
        let percent = whole * 100 + parts;
        if percent == 0 || percent > Self::ALL { Err(error()) } else { Ok(Self(percent)) }
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The route of a percentage of the tenants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The percentage.
    pub percent: Percent,
    /// The route.
    #[serde(flatten)]
    pub route: Route,
}

/// A route that may be absent, and the offset of the control record that last set or removed it; `None`: none ever
/// did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// The route; `None`: there is none.
    pub route: Option<R>,
    /// The offset of the record.
    pub offset: Option<Offset>,
}

impl<R> Default for Versioned<R> {
    fn default() -> Self {
        Self { route: None, offset: None }
    }
}

impl<R> Versioned<R> {
    /// The route and the offset of its record; `None`: there is no route.
    pub fn set(&self) -> Option<(&R, Offset)> {
        Some((self.route.as_ref()?, self.offset?))
    }
}

/// All routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// The default: all tenants without a more specific route.
    pub default: Versioned<Route>,
    /// The percentage.
    pub share: Versioned<Share>,
    /// The pins. A removed pin stays in the map without a route.
    pub pins: BTreeMap<TenantId, Versioned<Route>>,
}

/// The route that applies to a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The route; `None`: no route applies.
    pub route: Option<&'a Route>,
    /// The offset of the last control record that may have changed the tenant's route; `None`: none ever did.
    pub offset: Option<Offset>,
}

impl RouteTable {
    /// Resolves the route of a tenant. A pin takes precedence over the percentage, the percentage over the default.
    pub fn resolve(&self, tenant: &TenantId) -> Resolved<'_> {
        let pin = self.pins.get(tenant);
        let offset = self.default.offset.max(self.share.offset).max(pin.and_then(|pin| pin.offset));
        let share = || {
            let share = self.share.route.as_ref();
            share.filter(|share| share.percent.includes(&share.route.release, tenant)).map(|share| &share.route)
        };
        let route = pin.and_then(|pin| pin.route.as_ref()).or_else(share).or(self.default.route.as_ref());
        Resolved { route, offset }
    }

    /// The offset of the last control record that set or removed any route; `None`: none ever did.
    pub fn changed(&self) -> Option<Offset> {
        let pins = self.pins.values().map(|pin| pin.offset);
        pins.fold(self.default.offset.max(self.share.offset), Option::max)
    }

    /// All routes that exist.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        let pins = self.pins.values().filter_map(|pin| pin.route.as_ref());
        self.default.route.iter().chain(self.share.route.iter().map(|share| &share.route)).chain(pins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(number: u8) -> Route {
        Route { release: Digest::new([number; 32]), previous: None, gate: None }
    }

    fn at(offset: u32) -> Offset {
        offset.into()
    }

    fn tenants() -> impl Iterator<Item = TenantId> {
        (0..10_000).map(|number| TenantId::new(format!("tenant-{number}")))
    }

    #[test]
    fn a_pin_takes_precedence_over_the_percentage_and_the_percentage_over_the_default() {
        let mut table = RouteTable::default();
        let tenant = TenantId::new("t");
        assert_eq!((table.resolve(&tenant), table.changed()), (Resolved { route: None, offset: None }, None));
        table.default = Versioned { route: Some(route(1)), offset: Some(at(5)) };
        assert_eq!(table.resolve(&tenant), Resolved { route: Some(&route(1)), offset: Some(at(5)) });
        table.share =
            Versioned { route: Some(Share { percent: Percent(Percent::ALL), route: route(2) }), offset: Some(at(3)) };
        assert_eq!(table.resolve(&tenant), Resolved { route: Some(&route(2)), offset: Some(at(5)) });
        table.pins.insert(tenant.clone(), Versioned { route: Some(route(3)), offset: Some(at(9)) });
        assert_eq!(table.resolve(&tenant), Resolved { route: Some(&route(3)), offset: Some(at(9)) });
        table.pins.insert(tenant.clone(), Versioned { route: None, offset: Some(at(11)) });
        assert_eq!(
            table.resolve(&tenant),
            Resolved { route: Some(&route(2)), offset: Some(at(11)) },
            "cleared, and that counts"
        );
        assert_eq!(table.changed(), Some(at(11)));
        assert_eq!(table.resolve(&TenantId::new("other")).offset, Some(at(5)), "another tenant's pin is nothing to it");
    }

    #[test]
    fn a_growing_percentage_only_adds_tenants_and_has_its_size() {
        let release = Digest::new([1; 32]);
        let mut before = 0;
        for percent in [1, 100, 2500, 5000, 9999] {
            let included = |percent: u16| tenants().filter(move |t| Percent(percent).includes(&release, t));
            assert!(included(percent).all(|tenant| Percent(percent + 1).includes(&release, &tenant)));
            let count = included(percent).count();
            assert!(count.abs_diff(usize::from(percent)) < 250, "{count} of 10,000 are {percent}");
            assert!(count >= before);
            before = count;
        }
        assert!(tenants().all(|tenant| Percent(Percent::ALL).includes(&release, &tenant)));
    }

    #[test]
    fn percentages_are_read_and_written() {
        for (text, parts) in [("100", 10_000), ("12.5", 1250), ("0.01", 1), ("7", 700), ("0.10", 10)] {
            assert_eq!(text.parse(), Ok(Percent(parts)));
            assert_eq!(Percent(parts).to_string().parse(), Ok(Percent(parts)));
        }
        for text in ["", "0", "0.001", "100.01", "-1", "5%", "1e1", ".5", "9999999"] {
            assert!(text.parse::<Percent>().is_err(), "{text}");
        }
    }
}
