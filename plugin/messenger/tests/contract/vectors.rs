//! The test vectors, which the component must pass too.

use messenger::Messenger;
use switchboard_sdk::testkit::run_vectors;

#[test]
fn the_test_vectors_pass_natively() {
    match run_vectors::<Messenger>(include_str!("../../../../tests/vectors/messenger.json")) {
        Ok(passed) => assert_eq!(passed, 1060, "steps"),
        Err(differences) => panic!("{differences}"),
    }
}
