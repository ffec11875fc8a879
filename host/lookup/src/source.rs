//! One HTTP source: its configuration, its URL template, and requests with retries.

use std::time::{Duration, Instant};

use backon::{BlockingRetryable as _, ExponentialBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

/// All characters but the unreserved ones of RFC 3986: a key becomes one segment of the path.
const RESERVED_CHARACTERS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// Connections to a source that stay open without a request. One call uses one at a time, and many threads call.
const MAX_IDLE_CONNECTIONS: usize = 32;
/// The pause before the second request. It doubles with each further one.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The configuration of a lookup source (`[lookups.NAME]`).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceOptions {
    /// The URL template with `{key}` and, optionally, `{base}`: `{base}characters/{key}`.
    pub url: String,
    /// Environment variables that hold the base URL. The first one that is set counts. The default is `<SOURCE>_SERVICE_URL`,
    /// with the source's name in upper case, then `BASE_SERVICE_URL`.
    #[serde(default)]
    pub base_env: Vec<String>,
    /// The time-out of one request, in milliseconds.
    #[serde(default = "default_timeout")]
    pub timeout_ms: u64,
    /// How often a failed request is repeated.
    #[serde(default = "default_retries")]
    pub retries: usize,
    /// How long an answer is cached, in milliseconds.
    #[serde(default = "default_hit_ttl")]
    pub hit_ttl_ms: u64,
    /// How long a "not found" is cached, in milliseconds.
    #[serde(default = "default_miss_ttl")]
    pub miss_ttl_ms: u64,
}

fn default_timeout() -> u64 {
    1000
}

fn default_retries() -> usize {
    5
}

fn default_hit_ttl() -> u64 {
    60_000
}

fn default_miss_ttl() -> u64 {
    5000
}

impl SourceOptions {
    /// A source with the default times.
    pub fn new(url: String) -> Self {
        Self {
            url,
            base_env: Vec::new(),
            timeout_ms: default_timeout(),
            retries: default_retries(),
            hit_ttl_ms: default_hit_ttl(),
            miss_ttl_ms: default_miss_ttl(),
        }
    }
}

/// A configuration that is refused at start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The template of a source never uses the key.
    #[error("lookup source {0}: the URL template {1:?} has no {{key}}")]
    NoKey(String, String),
    /// The template of a source, with its base URL, is no URL.
    #[error("lookup source {0}: {1:?} is no http or https URL")]
    NoUrl(String, String),
}

/// One HTTP source.
pub struct Source {
    name: String,
    /// The URL template. Only `{key}` is left in it.
    template: String,
    options: SourceOptions,
    /// The source's own: it locks its idle connections only to take one and to put one back.
    agent: Agent,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{url}: {source}")]
    Request { url: String, source: ureq::Error },
    #[error("{url}: HTTP status {status}")]
    Status { url: String, status: StatusCode },
    #[error("no time was left for a request")]
    NoTime,
}

impl FetchError {
    /// Whether the same request may succeed later.
    fn is_retriable(&self) -> bool {
        match self {
            Self::Request { source, .. } => !matches!(source, ureq::Error::Http(_) | ureq::Error::BadUri(_)),
            Self::Status { status, .. } => {
                status.is_server_error()
                    || [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(status)
            }
            Self::NoTime => false,
        }
    }
}

impl Source {
    /// A source; the base URL comes from `environment`.
    ///
    /// `None` when the template needs a base URL and none of its variables is set. Then the source is not configured, and every
    /// answer is "not found".
    ///
    /// # Errors
    /// When the template can never become a URL.
    pub fn new(
        name: &str,
        mut options: SourceOptions,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, SourceError> {
        if !options.url.contains("{key}") {
            return Err(SourceError::NoKey(name.to_owned(), options.url));
        }
        let mut template = options.url.clone();
        if template.contains("{base}") {
            if options.base_env.is_empty() {
                let own = name.to_uppercase().replace('-', "_");
                options.base_env = vec![format!("{own}_SERVICE_URL"), "BASE_SERVICE_URL".into()];
            }
            let base = options.base_env.iter().filter_map(|name| environment(name)).find(|base| !base.is_empty());
            let Some(base) = base else { return Ok(None) };
            template = template.replace("{base}", &format!("{}/", base.trim_end_matches('/')));
        }
        let probe = template.replace("{key}", "0").parse::<ureq::http::Uri>().ok();
        let scheme = probe.as_ref().and_then(|uri| uri.scheme_str());
        if !matches!(scheme, Some("http" | "https")) {
            return Err(SourceError::NoUrl(name.to_owned(), template));
        }
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder().http_status_as_error(false).tls_config(tls);
        let config = config.max_idle_connections(MAX_IDLE_CONNECTIONS);
        let agent = config.max_idle_connections_per_host(MAX_IDLE_CONNECTIONS).build().new_agent();
        Ok(Some(Self { name: name.to_owned(), template, options, agent }))
    }

    /// The source's name in the configuration and in the plugin's manifest.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL template with its base URL filled in.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// How long an answer (`hit`) or a "not found" is cached.
    pub(super) fn time_to_live(&self, hit: bool) -> Duration {
        Duration::from_millis(if hit { self.options.hit_ttl_ms } else { self.options.miss_ttl_ms })
    }

    /// Requests the value of a key until there is an answer, the retries or the `budget` are used up, or a failure is not
    /// retriable. `attempt` counts the earlier calls for the same query; a later attempt starts with a pause.
    pub(super) fn fetch(
        &self,
        key: &str,
        headers: &[(&str, &str)],
        attempt: u32,
        budget: Duration,
    ) -> Result<Option<Vec<u8>>, FetchError> {
        let deadline = Instant::now() + budget;
        let url = self.template.replace("{key}", &utf8_percent_encode(key, RESERVED_CHARACTERS).to_string());
        if attempt > 0 {
            // The previous answer was unusable. The source gets time to recover.
            let pause = FIRST_RETRY_PAUSE.saturating_mul(1 << attempt.min(10));
            std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        }
        let back_off = ExponentialBuilder::default()
            .with_min_delay(FIRST_RETRY_PAUSE)
            .with_max_times(self.options.retries)
            .with_total_delay(Some(budget))
            .with_jitter();
        (|| self.request(&url, headers, deadline)).retry(back_off).when(FetchError::is_retriable).call()
    }

    fn request(&self, url: &str, headers: &[(&str, &str)], deadline: Instant) -> Result<Option<Vec<u8>>, FetchError> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(FetchError::NoTime);
        }
        let timeout = left.min(Duration::from_millis(self.options.timeout_ms));
        let mut request = self.agent.get(url).config().timeout_global(Some(timeout)).build();
        request = request.header("accept", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let failure = |source| FetchError::Request { url: url.to_owned(), source };
        let mut response = request.call().map_err(failure)?;
        match response.status() {
            StatusCode::OK => {
                response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec().map(Some).map_err(failure)
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(FetchError::Status { url: url.to_owned(), status }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(url: &str, environment: &[(&str, &str)]) -> Result<Option<Source>, SourceError> {
        Source::new("characters", SourceOptions::new(url.into()), |name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_base_comes_from_the_first_variable_set_with_or_without_a_slash() {
        for base in ["http://one/api", "http://one/api/"] {
            let source = source(
                "{base}characters/{key}",
                &[("BASE_SERVICE_URL", "http://two/"), ("CHARACTERS_SERVICE_URL", base)],
            );
            assert_eq!(source.unwrap().unwrap().template(), "http://one/api/characters/{key}");
        }
        let source =
            source("{base}characters/{key}", &[("CHARACTERS_SERVICE_URL", ""), ("BASE_SERVICE_URL", "http://two")]);
        assert_eq!(source.unwrap().unwrap().template(), "http://two/characters/{key}");
    }

    #[test]
    fn without_a_base_the_source_is_not_configured() {
        assert!(source("{base}characters/{key}", &[]).unwrap().is_none());
    }

    #[test]
    fn templates_that_can_be_no_url_are_refused() {
        assert!(matches!(source("http://x/", &[]), Err(SourceError::NoKey(..))));
        assert!(matches!(source("ftp://x/{key}", &[]), Err(SourceError::NoUrl(..))));
        assert!(matches!(source("{base}/{key}", &[("BASE_SERVICE_URL", "nonsense")]), Err(SourceError::NoUrl(..))));
    }
}
