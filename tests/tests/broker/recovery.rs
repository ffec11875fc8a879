//! Hosts that die and are started again, by both protocols: who takes up their partitions, and when.

use anyhow::{Result, ensure};
use switchboard_tests::app::{App, LONG, answers};
use switchboard_tests::client::Record;
use switchboard_tests::host::Host;
use switchboard_tests::progress;

const PARTITIONS: i32 = 4;
const TENANTS: usize = 20;
/// Slow messages of a tenant of their own, while which a transaction stays open.
const SLOW: usize = 100;

/// What was sent to an application, and must come out of it.
struct Sent<'a> {
    app: &'a App,
    /// Counts of each tenant.
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
        self.app.client.produce(&vec![self.app.word("slow", "burn 10000"); SLOW])?;
        self.slow += SLOW;
        Ok(())
    }

    /// Waits until all of it has come out, nothing lost, repeated or overtaken.
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

/// It waits neither for its own session time-out nor for that of the transaction which it left open, nor does anybody who
/// reads what it had written.
#[test]
fn a_killed_host_with_an_instance_id_goes_on_as_soon_as_it_is_started_again() -> Result<()> {
    let app = App::hostile("static", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    // The session is longer than any wait of this test: nothing goes on here because a session has ended.
    let flags = ["--instance", "only", "--batch-time-ms", "5000", "--session-timeout-ms", "1200000"];
    let mut sent = Sent::nothing(&app);
    let transactions = app.client.transactions(app.topic("OUT"))?;
    let mut host = app.run("host-0", &flags)?;
    sent.count(10)?;
    sent.check()?;
    for kill in 1..=3 {
        sent.count(5)?;
        // The outputs of the counts are written, and those of the slow messages behind them are still to come.
        sent.burn()?;
        progress::wait_until("an open transaction", || transactions.is_open())?;
        host.kill()?;
        ensure!(transactions.is_open()?, "the transaction was over before the kill");
        sent.count(5)?;
        host = app.start(&format!("host-{kill}"), &flags)?;
        sent.check()?;
    }
    assert!(host.terminate(LONG)?.success());
    Ok(())
}

fn wait_for_partitions(host: &Host) -> Result<()> {
    host.wait_for("its partitions", LONG, |line| line.contains(" partitions assigned")).map(drop)
}

/// By KIP-848: the broker gives up a dead member after its own session time-out, which is 6 s here.
#[test]
fn members_by_the_consumer_protocol_join_die_return_and_leave() -> Result<()> {
    let app = App::hostile("members-848", &["IN"], PARTITIONS)?.topic_with("OUT", &[])?;
    let flags = ["--group-protocol", "consumer", "--workers", "1", "--batch-records", "20", "--instance"];
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
    assert!(second.terminate(LONG)?.success());
    sent.count(50)?;
    sent.check()?;
    assert!(first.terminate(LONG)?.success());
    Ok(())
}
