//! Processed records do not stay in the repartition topic for ever.

use anyhow::Result;
use switchboard_tests::app::{App, LONG, answers};
use switchboard_tests::progress;

#[test]
fn processed_records_are_deleted_from_the_shard_topic_and_hosts_go_on_from_there() -> Result<()> {
    let app = App::hostile("purge", &["IN", "OUT"], 1)?.arg("--shards", "2").arg("--purge-interval-ms", "50");
    let shards = format!("{}-switchboard-repartition", app.name);
    app.client.produce(&[app.word("a", "count"), app.word("b", "count"), app.word("a", "count")])?;
    let mut host = app.run("first", &[])?;
    app.wait_for("OUT", 3)?;

    progress::wait_until(&format!("processed records to be deleted from {shards}"), || {
        Ok(app.client.read_all(&shards)?.is_empty())
    })?;
    app.client.produce(&[app.word("a", "count")])?;
    app.wait_for("OUT", 4)?;
    assert!(host.terminate(LONG)?.success());

    let mut host = app.run("second", &[])?;
    app.client.produce(&[app.word("a", "count")])?;
    assert_eq!(answers(&app.wait_for("OUT", 5)?, "a"), ["1", "2", "3", "4"]);
    assert!(host.terminate(LONG)?.success());
    Ok(())
}
