//! Whether brokers can be reached: at the bootstrap addresses, and at the addresses that brokers advertise.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaResult;
use rdkafka::metadata::Metadata;

use super::DOCTOR_REQUEST_TIMEOUT;
use super::connection_log::{ConnectionLog, LOG_POLL};
use crate::clients::ClientOptions;
use crate::finding::{Finding, Level};

/// One TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Kafka's port.
const DEFAULT_PORT: u16 = 9092;

/// The findings, and the cluster's metadata if a broker answers and any advertised address can be reached.
pub(super) fn brokers(options: &ClientOptions) -> KafkaResult<(Vec<Finding>, Option<Metadata>)> {
    let servers = &options.bootstrap_servers;
    let mut findings: Vec<_> = servers.split(',').map(|server| bootstrap(server.trim())).collect();
    if findings.iter().all(|finding| finding.level == Level::Problem) {
        return Ok((findings, None));
    }
    // One address that works is enough.
    for finding in &mut findings {
        finding.level = finding.level.min(Level::Warning);
    }
    let (config, log) = (options.plain(), ConnectionLog::default());
    let client: BaseConsumer<ConnectionLog> = BaseConsumer::from_config_and_context(&config, log.clone())?;
    match client.fetch_metadata(None, DOCTOR_REQUEST_TIMEOUT) {
        Ok(metadata) => {
            let id = client.client().fetch_cluster_id(DOCTOR_REQUEST_TIMEOUT).unwrap_or_default();
            let text = format!("{} brokers, id {id}", metadata.brokers().len());
            findings.push(Finding::ok("the cluster", text.replace("1 brokers", "1 broker")));
            let brokers = metadata.brokers().iter().map(|broker| {
                let port = u16::try_from(broker.port()).unwrap_or_default();
                advertised(broker.id(), broker.host(), port)
            });
            let brokers: Vec<_> = brokers.collect();
            let any = brokers.iter().any(|broker| broker.level == Level::Ok);
            findings.extend(brokers);
            Ok((findings, any.then_some(metadata)))
        }
        Err(error) => {
            log.wait_for_reason(|| drop(client.poll(LOG_POLL)));
            findings.push(Finding::problem(
                "the cluster",
                format!("it can be connected to, but does not answer as Kafka: {}", log.explain(&error)),
                "Check the port, and security.protocol, sasl.* and ssl.* (--kafka NAME=VALUE): they must match the brokers' \
                 listener at this address",
            ));
            Ok((findings, None))
        }
    }
}

fn bootstrap(server: &str) -> Finding {
    let subject = format!("bootstrap server {server}");
    let Some((host, port)) = parse(server) else {
        return Finding::problem(subject, "not an address", "Write it as HOST:PORT in BOOTSTRAP_SERVERS");
    };
    match connect(host, port) {
        Ok(()) => Finding::ok(subject, "can be connected to"),
        Err(error) => Finding::problem(
            subject,
            format!("cannot be connected to: {error}"),
            "Check BOOTSTRAP_SERVERS, whether the broker runs, and the network to it",
        ),
    }
}

/// A common mistake: after the first contact, clients use the addresses that brokers advertise.
fn advertised(id: i32, host: &str, port: u16) -> Finding {
    let subject = format!("broker {id}");
    match connect(host, port) {
        Ok(()) => Finding::ok(subject, format!("is advertised as {host}:{port} and can be connected to")),
        Err(error) => Finding::problem(
            subject,
            format!("is advertised as {host}:{port}, which cannot be connected to: {error}"),
            "Clients connect to the addresses that brokers advertise: set advertised.listeners of this broker to one that \
             can be reached from here",
        ),
    }
}

/// Host and port of `[PROTOCOL://]HOST[:PORT]`.
fn parse(server: &str) -> Option<(&str, u16)> {
    let address = server.split_once("://").map_or(server, |(_, address)| address);
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (address, DEFAULT_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty()).then_some((host, port))
}

fn connect(host: &str, port: u16) -> io::Result<()> {
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for address in (host, port).to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).map(drop);
        if result.is_ok() {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_librdkafka_reads_them() {
        for (text, expected) in [
            ("kafka:9093", Some(("kafka", 9093))),
            ("kafka", Some(("kafka", DEFAULT_PORT))),
            ("SASL_SSL://kafka:9093", Some(("kafka", 9093))),
            ("[::1]:9093", Some(("::1", 9093))),
            ("[::1]", Some(("::1", DEFAULT_PORT))),
            ("kafka:port", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
