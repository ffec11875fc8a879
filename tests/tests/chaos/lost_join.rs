//! Does a host recover when its JoinGroup request is lost on a connection that stays open? The consumer waits for the
//! answer as if it were still a member, and meanwhile the group has removed it.

use anyhow::Result;
use switchboard_tests::app::WAIT_LIMIT;
use switchboard_tests::host::switchboard;
use switchboard_tests::proxy::Api;

use crate::proxied_broker::ProxiedBroker;

#[test]
fn a_removed_member_whose_join_request_was_lost_starts_again() -> Result<()> {
    let setup = ProxiedBroker::new()?;
    let mut removed = ProxiedBroker::start("removed", switchboard()?, setup.proxy())?;
    setup.send(1)?;
    assert_eq!(setup.ids(1)?, [1]);

    let join = setup.network.hold(Api::JoinGroup);
    let mut other = ProxiedBroker::start("other", switchboard()?, setup.direct())?;
    join.wait(WAIT_LIMIT)?;
    other.wait_for("the removed member's partitions", WAIT_LIMIT, |line| line.contains(" shards assigned"))?;
    // Both hosts read the record, but only one of them may commit it.
    setup.send(2)?;
    // Long before the 5 minutes that librdkafka waits for the answer by default.
    removed.wait_for("a new start", WAIT_LIMIT, |line| line.contains("starting again"))?;
    setup.send(3)?;
    assert_eq!(setup.ids(3)?, [1, 2, 3]);
    assert!(other.terminate(WAIT_LIMIT)?.success());
    setup.send(4)?;
    assert_eq!(setup.ids(4)?, [1, 2, 3, 4]);
    assert!(removed.terminate(WAIT_LIMIT)?.success());
    Ok(())
}
