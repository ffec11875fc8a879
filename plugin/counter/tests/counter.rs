//! The counter, compiled natively: its messages one by one, random messages against a model, and the test vectors that the
//! component passes too (`switchboard test`).

use std::collections::BTreeMap;

use counter::{Counter, MAX_WORD_BYTES};
use proptest::prelude::*;
use switchboard_sdk::testkit::{Bench, run_vectors};
use switchboard_sdk::{Message, Outbound, Plugin, Rejection};

fn send(bench: &mut Bench, value: Option<&[u8]>) -> Result<Vec<Outbound>, Rejection> {
    let message = Message { topic: "WORDS".into(), value: value.map(<[u8]>::to_vec), ..Message::default() };
    bench.handle::<Counter>(&message)
}

/// What the counter sends for a word that has come `count` times.
fn counted(word: &str, count: u64) -> Vec<Outbound> {
    let value = Some(format!("{word} {count}").into_bytes());
    vec![Outbound { topic: "COUNTS".into(), key: Some(word.into()), value, headers: vec![] }]
}

/// Sends a value that is rejected, and checks that it leaves the state as it was.
fn rejection(bench: &mut Bench, value: &[u8]) -> String {
    let before = bench.state.clone();
    let rejected = send(bench, Some(value));
    assert_eq!(bench.state, before, "a rejected message changes no state");
    match rejected {
        Err(Rejection::Invalid(reason)) => reason,
        other => panic!("not rejected as invalid: {other:?}"),
    }
}

#[test]
fn each_word_has_a_count_of_its_own() {
    let mut bench = Bench::default();
    assert_eq!(send(&mut bench, Some(b"tea")), Ok(counted("tea", 1)));
    assert_eq!(send(&mut bench, Some(b"milk")), Ok(counted("milk", 1)));
    assert_eq!(send(&mut bench, Some(b"tea")), Ok(counted("tea", 2)));
    assert_eq!(bench.state.0["count/tea"], b"2");
}

#[test]
fn a_null_value_changes_nothing_and_sends_nothing() {
    let mut bench = Bench::default();
    assert_eq!(send(&mut bench, None), Ok(vec![]));
    assert!(bench.state.0.is_empty());
}

#[test]
fn a_value_that_is_no_word_is_rejected() {
    let mut bench = Bench::default();
    assert_eq!(rejection(&mut bench, b"\xff"), "the value is not UTF-8");
    assert_eq!(rejection(&mut bench, b""), "the value is empty");
    let long = "x".repeat(MAX_WORD_BYTES + 1);
    assert_eq!(rejection(&mut bench, long.as_bytes()), format!("the word is longer than {MAX_WORD_BYTES} bytes"));
    assert_eq!(send(&mut bench, Some(&long.as_bytes()[1..])), Ok(counted(&long[1..], 1)), "the longest word");
}

#[test]
fn a_full_count_is_rejected_and_kept() {
    let mut bench = Bench::default();
    bench.state.0.insert("count/tea".into(), (u64::MAX - 1).to_string().into_bytes());
    assert_eq!(send(&mut bench, Some(b"tea")), Ok(counted("tea", u64::MAX)));
    assert_eq!(rejection(&mut bench, b"tea"), "the count is full");
    assert_eq!(send(&mut bench, Some(b"milk")), Ok(counted("milk", 1)), "other words are counted");
}

#[test]
fn the_manifest_names_the_topics() {
    let manifest = Counter::manifest();
    assert_eq!((manifest.consumes, manifest.produces), (vec!["WORDS".to_owned()], vec!["COUNTS".to_owned()]));
}

proptest! {
    #[test]
    fn counts_follow_a_model(words in prop::collection::vec("[ab]{0,2}", 0..50)) {
        let (mut bench, mut model) = (Bench::default(), BTreeMap::<&str, u64>::new());
        for word in &words {
            if word.is_empty() {
                rejection(&mut bench, b"");
                continue;
            }
            let count = model.entry(word).or_default();
            *count += 1;
            prop_assert_eq!(send(&mut bench, Some(word.as_bytes())), Ok(counted(word, *count)));
        }
        prop_assert_eq!(bench.state.0.len(), model.len());
    }

    #[test]
    fn any_bytes_are_counted_or_rejected(value in prop::collection::vec(any::<u8>(), 0..MAX_WORD_BYTES + 9)) {
        let mut bench = Bench::default();
        match std::str::from_utf8(&value) {
            Ok(word) if (1..=MAX_WORD_BYTES).contains(&word.len()) => {
                prop_assert_eq!(send(&mut bench, Some(&value)), Ok(counted(word, 1)));
            }
            _ => drop(rejection(&mut bench, &value)),
        }
    }
}

#[test]
fn the_test_vectors_pass_natively() {
    match run_vectors::<Counter>(include_str!("../vectors/counter.json")) {
        Ok(passed) => assert_eq!(passed, 11, "steps"),
        Err(differences) => panic!("{differences}"),
    }
}
