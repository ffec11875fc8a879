//! A JoinGroup request is lost on a connection that stays open: the consumer waits for its answer and believes itself a member
//! meanwhile, while the group gives it up.

use anyhow::Result;
use switchboard_tests::app::LONG;
use switchboard_tests::host::switchboard;
use switchboard_tests::proxy::Api;

use crate::stage::Stage;

#[test]
fn a_member_that_the_group_gave_up_unheard_starts_again() -> Result<()> {
    let stage = Stage::new()?;
    let mut given_up = Stage::start("given-up", switchboard()?, stage.proxy())?;
    stage.send(1)?;
    assert_eq!(stage.ids(1)?, [1]);

    let join = stage.network.hold(Api::JoinGroup);
    let mut other = Stage::start("other", switchboard()?, stage.direct())?;
    join.wait(LONG)?;
    other.wait_for("the given up one's partitions", LONG, |line| line.contains(" partitions assigned"))?;
    // Both read it, and only one of them may have it committed.
    stage.send(2)?;
    // Long before the 5 minutes are over for which librdkafka awaits the answer by default.
    given_up.wait_for("a new start", LONG, |line| line.contains("starting again"))?;
    stage.send(3)?;
    assert_eq!(stage.ids(3)?, [1, 2, 3]);
    assert!(other.terminate(LONG)?.success());
    stage.send(4)?;
    assert_eq!(stage.ids(4)?, [1, 2, 3, 4]);
    assert!(given_up.terminate(LONG)?.success());
    Ok(())
}
