//! Does the host delete processed records from the repartition topic?

use anyhow::Result;
use switchboard_tests::app::{App, WAIT_LIMIT, answers};
use switchboard_tests::progress;

#[test]
fn processed_records_are_deleted_from_the_repartition_topic_and_hosts_continue_after_them() -> Result<()> {
    let app = App::hostile("purge", &["IN", "OUT"], 1)?.arg("--shards", "2").arg("--purge-interval-ms", "50");
    let repartition_topic = format!("{}-switchboard-repartition", app.name);
    app.client.produce(&[app.word("a", "count"), app.word("b", "count"), app.word("a", "count")])?;
    let mut host = app.run("first", &[])?;
    app.wait_for("OUT", 3)?;

    progress::wait_until(&format!("processed records to be deleted from {repartition_topic}"), || {
        Ok(app.client.read_all(&repartition_topic)?.is_empty())
    })?;
    app.client.produce(&[app.word("a", "count")])?;
    app.wait_for("OUT", 4)?;
    assert!(host.terminate(WAIT_LIMIT)?.success());

    let mut host = app.run("second", &[])?;
    app.client.produce(&[app.word("a", "count")])?;
    assert_eq!(answers(&app.wait_for("OUT", 5)?, "a"), ["1", "2", "3", "4"]);
    assert!(host.terminate(WAIT_LIMIT)?.success());
    Ok(())
}
