//! The checker accepts a faultless run, and finds every violation that a test plants into it.

use super::*;
use crate::chaos::mix::Mix;

const PARTITIONS: i32 = 3;

/// The records that a faultless host produces for the first inputs of a mix, in the order of sending.
fn faultless(inputs: usize) -> Evidence {
    let sent: Vec<Input> = Mix::new(7, PARTITIONS).take(inputs).collect();
    let mut evidence = Evidence { sent: sent.clone(), ..Evidence::default() };
    let mut benches: BTreeMap<String, Bench> = BTreeMap::new();
    let mut offsets = [0_i64; PARTITIONS as usize];
    for input in &sent {
        let offset = &mut offsets[usize::try_from(input.partition).unwrap()];
        let record = Record {
            partition: Some(input.partition),
            offset: Some(*offset),
            value: Some(input.value().into_bytes()),
            headers: vec![("TENANT".to_owned(), Some(input.tenant.clone().into_bytes()))],
            ..Record::default()
        };
        *offset += 1;
        evidence.inputs.push(record.clone());
        let bench = benches.entry(input.tenant.clone()).or_default();
        let mut letter = |class: &str, reason: String| {
            let mut letter = record.clone();
            letter.headers.push(("switchboard-class".to_owned(), Some(class.into())));
            letter.headers.push(("switchboard-reason".to_owned(), Some(reason.into_bytes())));
            evidence.dead_letters.push(letter);
        };
        if input.action.starts_with("trap") {
            letter("trap", "wasm trap".to_owned());
            continue;
        }
        let message = Message { tenant: input.tenant.clone(), value: record.value.clone(), ..Message::default() };
        let before = bench.state.0.clone();
        match bench.handle::<Ledger>(&message) {
            Ok(outputs) => {
                for Outbound { topic, key, value, .. } in outputs {
                    let output = Record { key, value, partition: Some(0), ..record.clone() };
                    if topic == "LINES" { &mut evidence.lines } else { &mut evidence.audit }.push(output);
                }
            }
            Err(Rejection::Invalid(reason)) => letter("invalid", reason),
            Err(other) => panic!("{other:?}"),
        }
        let mut change = |key: &str, value: Option<&Vec<u8>>| {
            let key = Some(format!("{}\0{key}", input.tenant).into_bytes());
            evidence.changelog.push(Record { key, value: value.cloned(), ..Record::default() });
        };
        for (key, value) in bench.state.0.iter().filter(|(key, value)| before.get(*key) != Some(*value)) {
            change(key, Some(value));
        }
        for key in before.keys().filter(|key| !bench.state.0.contains_key(*key)) {
            change(key, None);
        }
    }
    evidence
}

/// Checks a faultless run after `plant` has changed it.
fn planted(plant: impl FnOnce(&mut Evidence)) -> Violations {
    let mut evidence = faultless(2000);
    plant(&mut evidence);
    check(&evidence)
}

fn refusal(letter: &Record) -> bool {
    refused_after(letter).is_some()
}

#[test]
fn a_faultless_run_is_accepted() {
    assert_eq!(planted(|_| ()), Violations::default());
}

#[test]
fn a_loss_is_found() {
    assert_eq!(planted(|evidence| drop(evidence.lines.remove(100))).count("lost"), 1);
    assert_eq!(planted(|evidence| drop(evidence.dead_letters.remove(10))).count("lost"), 1);
    assert!(planted(|evidence| drop(evidence.audit.remove(100))).count("wrong output") > 0);
}

#[test]
fn a_missing_or_repeated_part_of_a_message_is_found() {
    let second = |evidence: &Evidence| evidence.lines.iter().position(|line| part(line) == Some(1)).unwrap();
    let missing = planted(|evidence| drop(evidence.lines.remove(second(evidence))));
    assert_eq!(missing.count("wrong output"), 1);
    let twice = planted(|evidence| evidence.lines.push(evidence.lines[second(evidence)].clone()));
    assert_eq!(twice.count("wrong output"), 1);
    let twice = planted(|evidence| evidence.audit.push(evidence.audit[50].clone()));
    assert_eq!(twice.count("wrong output"), 2);
}

#[test]
fn an_input_that_is_settled_twice_is_found() {
    assert_eq!(planted(|evidence| evidence.lines.push(evidence.lines[100].clone())).count("settled twice"), 1);
    assert_eq!(
        planted(|evidence| evidence.dead_letters.push(evidence.dead_letters[10].clone())).count("settled twice"),
        1
    );
    let both = planted(|evidence| {
        let input = evidence.sent.iter().find(|input| !input.is_refused()).unwrap().id;
        evidence.dead_letters.push(evidence.inputs[usize::try_from(input).unwrap()].clone());
    });
    assert_eq!(both.count("settled twice"), 1);
}

#[test]
fn overtaking_within_a_source_partition_is_found() {
    // The offsets of one partition are reversed, as if its records had been read backwards.
    let overtaken = planted(|evidence| {
        for record in evidence.inputs.iter_mut().filter(|record| record.partition == Some(1)) {
            record.offset = record.offset.map(|offset| 1_000_000 - offset);
        }
    });
    assert!(overtaken.count("out of order") > 100);
    let letters = planted(|evidence| {
        let first = evidence.dead_letters.iter().position(refusal).unwrap();
        let tenant = header(&evidence.dead_letters[first], "TENANT").unwrap().to_owned();
        let same = |letter: &Record| refusal(letter) && header(letter, "TENANT") == Some(&tenant);
        let last = evidence.dead_letters.iter().rposition(same).unwrap();
        let headers = evidence.dead_letters[first].headers.clone();
        evidence.dead_letters[first].headers = std::mem::replace(&mut evidence.dead_letters[last].headers, headers);
    });
    assert!(letters.count("out of order") > 0);
}

#[test]
fn a_difference_in_state_is_found() {
    let last = |evidence: &Evidence| evidence.changelog.iter().rposition(|record| record.value.is_some()).unwrap();
    let changed = planted(|evidence| {
        let last = last(evidence);
        evidence.changelog[last].value = Some(b"[0,0]".to_vec());
    });
    assert_eq!(changed.count("state differs"), 1);
    let undeleted = planted(|evidence| {
        let deleted = |record: &Record| record.value.is_none();
        let rest = |evidence: &Evidence, at: usize| {
            evidence.changelog[at + 1..].iter().all(|later| later.key != evidence.changelog[at].key)
        };
        let at = (0..evidence.changelog.len()).rfind(|at| deleted(&evidence.changelog[*at]) && rest(evidence, *at));
        evidence.changelog.remove(at.unwrap());
    });
    assert_eq!(undeleted.count("state differs"), 1);
    let refused = planted(|evidence| {
        let key = Some(b"tenant-0\0kept/99".to_vec());
        evidence.changelog.push(Record { key, value: Some(b"1".to_vec()), ..Record::default() });
    });
    assert_eq!(refused.count("state differs"), 1);
}

#[test]
fn a_skipped_number_is_found() {
    let gap = planted(|evidence| {
        let text = String::from_utf8(evidence.lines[200].value.clone().unwrap()).unwrap();
        let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
        words[1] = (words[1].parse::<u64>().unwrap() + 1).to_string();
        evidence.lines[200].value = Some(words.join(" ").into_bytes());
    });
    assert_eq!(gap.count("wrong output"), 1);
}
