//! Do killed and restarted hosts continue at once and without loss, with both group protocols?

use anyhow::{Result, ensure};
use switchboard_tests::app::{App, WAIT_LIMIT, answers};
use switchboard_tests::client::Record;
use switchboard_tests::host::Host;
use switchboard_tests::kafka::{Kafka, Options, free_port};
use switchboard_tests::proxy::{Api, Network};

const PARTITIONS: i32 = 4;
const TENANTS: usize = 20;
/// The number of slow messages, of a tenant of their own. Some of them run when the host is killed.
const SLOW_MESSAGES: usize = 100;
/// The number of kills.
const KILLS: usize = 3;

/// The messages that were sent to an application, whose outputs must appear.
struct Sent<'a> {
    app: &'a App,
    /// The number of messages `count` of each tenant.
    counts: usize,
    slow: usize,
}

impl<'a> Sent<'a> {
    fn nothing(app: &'a App) -> Self {
        Self { app, counts: 0, slow: 0 }
    }

    fn count(&mut self, each: usize) -> Result<()> {
        let record = |number: usize| Record {
            partition: i32::try_from(number % TENANTS).ok().map(|tenant| tenant % PARTITIONS),
            ..self.app.word(&format!("tenant-{}", number % TENANTS), "count")
        };
        self.app.client.produce(&(0..TENANTS * each).map(record).collect::<Vec<_>>())?;
        self.counts += each;
        Ok(())
    }

    fn burn(&mut self) -> Result<()> {
        self.app.client.produce(&vec![self.app.word("slow", "burn 10000"); SLOW_MESSAGES])?;
        self.slow += SLOW_MESSAGES;
        Ok(())
    }

    /// Waits until all outputs are there. Checks that no message was lost, repeated or overtaken.
    fn check(&self) -> Result<()> {
        let expected = TENANTS * self.counts + self.slow;
        self.app.wait_for("OUT", expected)?;
        let outputs = self.app.client.read_all(self.app.topic("OUT"))?;
        ensure!(outputs.len() == expected, "{} outputs, expected {expected}", outputs.len());
        let expected: Vec<_> = (1..=self.counts).map(|count| count.to_string()).collect();
        for tenant in (0..TENANTS).map(|tenant| format!("tenant-{tenant}")) {
            assert_eq!(answers(&outputs, &tenant), expected, "{tenant}");
        }
        Ok(())
    }
}

/// A broker of its own, and a proxy between it and hosts that connect to the returned address.
fn behind_a_proxy() -> Result<(Kafka, Network, String)> {
    let behind = free_port()?;
    let network = Network::start(&[behind])?;
    let port = network.ports()[0];
    let kafka = Kafka::start_with(&Options { proxied: vec![(behind, port)], ..Options::default() })?;
    Ok((kafka, network, format!("127.0.0.1:{port}")))
}

/// The host does not wait for its session time-out or for the time-out of its open transaction. Readers of its outputs
/// do not wait either. Transactions are short, so the request that would end one is held back until the host is killed.
#[test]
fn a_killed_host_with_an_instance_continues_as_soon_as_it_restarts() -> Result<()> {
    let (kafka, network, address) = behind_a_proxy()?;
    let app = App::hostile_on(&kafka, "static", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    // The session time-out is longer than any wait of this test, so no progress comes from its end.
    let flags = ["--bootstrap-servers", &address, "--instance", "only", "--session-timeout-ms", "1200000"];
    let mut sent = Sent::nothing(&app);
    let transactions = app.client.transactions(app.topic("OUT"))?;
    let all_paths = format!("direct paths open={}", PARTITIONS * PARTITIONS);
    let mut host = app.run("host-0", &flags)?;
    sent.count(10)?;
    sent.check()?;
    for kill in 1..=KILLS {
        // From here on each transaction has outputs: none forwards a record, and none opens a path.
        host.wait_for("its direct paths", WAIT_LIMIT, |line| line.contains(&all_paths))?;
        let end = network.hold(Api::EndTxn);
        sent.burn()?;
        sent.count(5)?;
        end.wait(WAIT_LIMIT)?;
        host.kill()?;
        ensure!(transactions.is_open()?, "the kill {kill} has left no transaction open");
        // The request never arrives.
        drop(end);
        sent.count(5)?;
        host = app.start(&format!("host-{kill}"), &flags)?;
        sent.check()?;
    }
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}

fn wait_for_partitions(host: &Host) -> Result<()> {
    host.wait_for("its partitions", WAIT_LIMIT, |line| line.contains(" shards assigned")).map(drop)
}

/// With KIP-848 the broker removes a dead member after the broker's session time-out, which is 6 s here.
#[test]
fn members_with_the_consumer_protocol_join_die_return_and_leave_without_loss() -> Result<()> {
    let app = App::hostile("members-848", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    let flags = ["--group-protocol", "consumer", "--members", "1", "--batch-records", "20", "--instance"];
    let start = |name| app.start(name, &[&flags[..], &[name]].concat());
    let mut sent = Sent::nothing(&app);

    let mut first = start("first")?;
    sent.count(20)?;
    sent.check()?;
    let mut second = start("second")?;
    sent.count(50)?;
    wait_for_partitions(&second)?;
    sent.count(50)?;
    sent.check()?;

    sent.count(50)?;
    first.kill()?;
    let mut first = start("first")?;
    sent.count(50)?;
    sent.check()?;
    wait_for_partitions(&first)?;

    sent.count(50)?;
    assert!(second.terminate(WAIT_LIMIT)?.success());
    sent.count(50)?;
    sent.check()?;
    assert!(first.terminate(WAIT_LIMIT)?.success());
    Ok(())
}
