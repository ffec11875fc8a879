//! The decision table, row by row. Character 9 is unknown.

use serde_json::json;
use switchboard_sdk::Rejection;

use crate::tenant::*;

/// Ann, Bob and Cyd are in messenger M, Dee is in none.
fn full_messenger() -> Tenant {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    tenant.join(2, M);
    tenant.join(3, M);
    tenant
}

#[test]
fn an_unknown_character_cannot_create() {
    assert_eq!(Tenant::with_directory().create(9), [error(UNEXPECTED, 9, 0, 0)]);
}

#[test]
fn a_member_cannot_create() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.create(2), [error(ALREADY_1, 2, 0, 2)]);
}

#[test]
fn a_creator_gets_slot_0_of_a_new_messenger() {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.create(1), [created(1, 1, M)]);
    assert_eq!(tenant.create(2), [created(2, 2, M + 1)]);
    assert_eq!(tenant.leave(1, M), [left(1, 1, M, 0)]);
}

#[test]
fn the_id_of_an_ended_messenger_is_not_issued_again() {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    tenant.leave(1, M);
    assert_eq!(tenant.create(1), [created(1, 1, M + 1)]);
}

#[test]
fn nothing_is_created_when_the_ids_are_used_up() {
    let mut tenant = Tenant::with_directory();
    tenant.bench.state.0.insert("next-messenger".into(), u32::MAX.to_string().into_bytes());
    let before = tenant.bench.state.clone();
    let rejection = tenant.send(COMMANDS, command(1, "CREATE", "{}"));
    assert!(matches!(rejection, Err(Rejection::Invalid(_))), "{rejection:?}");
    assert_eq!(tenant.bench.state, before);
}

#[test]
fn an_unknown_character_cannot_join() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.join(9, M), [error(UNEXPECTED, 9, M, 0)]);
}

#[test]
fn a_member_cannot_join_another_messenger() {
    let mut tenant = full_messenger();
    tenant.create(4);
    assert_eq!(tenant.join(4, M), [error(ALREADY_2, 4, M + 1, 4)]);
}

#[test]
fn a_member_cannot_join_its_own_messenger() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.join(2, M), [error(ALREADY_2, 2, M, 2)]);
}

#[test]
fn a_member_cannot_join_a_missing_messenger() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.join(2, 5), [error(ALREADY_2, 2, M, 2)]);
}

#[test]
fn nobody_joins_a_missing_messenger() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.join(4, M + 1), [error(UNEXPECTED, 4, M + 1, 4)]);
    assert_eq!(tenant.join(4, 0), [error(UNEXPECTED, 4, 0, 4)]);
}

#[test]
fn nobody_joins_an_ended_messenger() {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    tenant.leave(1, M);
    assert_eq!(tenant.join(2, M), [error(UNEXPECTED, 2, M, 2)]);
}

#[test]
fn a_full_messenger_refuses_the_fourth() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.join(4, M), [error(FULL, 4, M, 4)]);
}

#[test]
fn a_new_member_gets_the_lowest_free_slot() {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    assert_eq!(tenant.join(2, M), [joined(2, 2, M, 1)]);
    assert_eq!(tenant.join(3, M), [joined(3, 3, M, 2)]);
    tenant.leave(1, M);
    assert_eq!(tenant.join(4, M), [joined(4, 4, M, 0)]);
    tenant.leave(3, M);
    tenant.leave(2, M);
    assert_eq!(tenant.join(1, M), [joined(1, 1, M, 1)]);
}

#[test]
fn members_are_listed_in_the_order_they_joined() {
    let mut tenant = full_messenger();
    tenant.leave(1, M);
    tenant.join(4, M);
    let messenger = &tenant.bench.state.0[&format!("messenger/{M}")];
    let members = [
        json!({"characterId": 2, "slot": 1}),
        json!({"characterId": 3, "slot": 2}),
        json!({"characterId": 4, "slot": 0}),
    ];
    assert_eq!(serde_json::from_slice::<serde_json::Value>(messenger).unwrap()["members"], json!(members));
}

#[test]
fn an_unknown_character_cannot_leave() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.leave(9, M), [error(UNEXPECTED, 9, M, 0)]);
}

#[test]
fn nobody_leaves_the_messenger_of_others() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.leave(4, M), [error(UNEXPECTED, 4, M, 4)]);
    tenant.create(4);
    assert_eq!(tenant.leave(4, M), [error(UNEXPECTED, 4, M, 4)]);
    assert_eq!(tenant.leave(1, M + 1), [error(UNEXPECTED, 1, M + 1, 1)]);
    assert_eq!(tenant.leave(1, 5), [error(UNEXPECTED, 1, 5, 1)]);
}

#[test]
fn nobody_leaves_messenger_0() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.leave(1, 0), [error(UNEXPECTED, 1, 0, 1)]);
    assert_eq!(tenant.leave(4, 0), [error(UNEXPECTED, 4, 0, 4)]);
}

#[test]
fn a_member_that_leaves_frees_its_slot() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.leave(2, M), [left(2, 2, M, 1)]);
    assert_eq!(tenant.leave(2, M), [error(UNEXPECTED, 2, M, 2)]);
    assert_eq!(tenant.join(4, M), [joined(4, 4, M, 1)]);
}

#[test]
fn the_last_to_leave_ends_the_messenger() {
    let mut tenant = full_messenger();
    for member in 1..=3 {
        tenant.leave(member, M);
    }
    assert!(!tenant.bench.state.0.keys().any(|key| key.starts_with("messenger/")));
    assert_eq!(tenant.join(4, M), [error(UNEXPECTED, 4, M, 4)]);
}

#[test]
fn an_unknown_character_cannot_invite() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.request_invite(9, 4), [error(UNEXPECTED, 9, 0, 0)]);
}

#[test]
fn an_unknown_character_cannot_be_invited() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.request_invite(4, 9), [error(UNEXPECTED, 4, 0, 0)]);
    assert_eq!(tenant.request_invite(1, 9), [error(UNEXPECTED, 1, M, 0)]);
}

#[test]
fn a_member_cannot_be_invited() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.request_invite(4, 2), [named_error(ALREADY_2, 4, M, 2, "Bob")]);
    tenant.create(4);
    assert_eq!(tenant.request_invite(4, 2), [named_error(ALREADY_2, 4, M, 2, "Bob")]);
    assert_eq!(tenant.request_invite(1, 2), [named_error(ALREADY_2, 1, M, 2, "Bob")]);
    assert_eq!(tenant.request_invite(1, 1), [named_error(ALREADY_2, 1, M, 1, "Ann")]);
}

#[test]
fn an_inviter_without_a_messenger_creates_one_first() {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.request_invite(1, 2), [created(1, 1, M), invite(1, 1, 2, M)]);
    assert_eq!(tenant.leave(1, M), [left(1, 1, M, 0)]);
}

#[test]
fn a_character_that_invites_itself_creates_a_messenger() {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.request_invite(1, 1), [created(1, 1, M), invite(1, 1, 1, M)]);
}

#[test]
fn nobody_is_invited_to_a_full_messenger() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.request_invite(1, 4), [error(FULL, 1, M, 4)]);
}

#[test]
fn an_invite_has_the_world_and_messenger_of_the_inviter() {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    assert_eq!(tenant.request_invite(1, 2), [invite(1, 1, 2, M)]);
}

#[test]
fn an_accepted_invite_is_a_join() {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    assert_eq!(tenant.accept(2, M), [joined(2, 2, M, 1)]);
    assert_eq!(tenant.accept(2, M), [error(ALREADY_2, 2, M, 2)]);
    assert_eq!(tenant.accept(9, M), [error(UNEXPECTED, 9, M, 0)]);
    assert_eq!(tenant.accept(3, 5), [error(UNEXPECTED, 3, 5, 3)]);
    tenant.accept(3, M);
    assert_eq!(tenant.accept(4, M), [error(FULL, 4, M, 4)]);
}

#[test]
fn invites_of_other_kinds_and_states_are_ignored() {
    let mut tenant = Tenant::with_directory();
    tenant.create(1);
    for (invite_type, kind) in
        [("BUDDY", "ACCEPTED"), ("", "ACCEPTED"), ("MESSENGER", "REJECTED"), ("messenger", "ACCEPTED")]
    {
        assert_eq!(tenant.send(INVITES, invite_status(invite_type, kind, 2, M)), Ok(vec![]));
    }
    assert_eq!(tenant.character(2), None);
}

#[test]
fn a_login_makes_a_character_known() {
    let mut tenant = Tenant::default();
    assert_eq!(tenant.create(9), [error(UNEXPECTED, 9, 0, 0)]);
    assert_eq!(tenant.login(9, 6, 3), []);
    let expected = json!({"id": 9, "name": "", "worldId": 6, "channelId": 3, "messengerId": 0, "online": true});
    assert_eq!(tenant.character(9), Some(expected));
    assert_eq!(tenant.create(9), [created(9, 6, M)]);
}

#[test]
fn a_login_takes_the_name_from_the_directory_and_the_world_from_the_event() {
    let mut tenant = Tenant::with_directory();
    tenant.login(2, 7, 3);
    let expected = json!({"id": 2, "name": "Bob", "worldId": 7, "channelId": 3, "messengerId": 0, "online": true});
    assert_eq!(tenant.character(2), Some(expected));
}

#[test]
fn a_login_keeps_world_and_name_of_a_known_character() {
    let mut tenant = Tenant::with_directory();
    tenant.create(2);
    tenant.directory_knows(2, "Rob", 9);
    tenant.login(2, 7, 3);
    let expected = json!({"id": 2, "name": "Bob", "worldId": 2, "channelId": 3, "messengerId": M, "online": true});
    assert_eq!(tenant.character(2), Some(expected));
}

#[test]
fn a_login_of_a_member_is_announced_to_its_messenger() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.login(2, 7, 3), [member("LOGIN", 2, M, 2)]);
    assert_eq!(tenant.login(4, 7, 3), []);
}

#[test]
fn a_logout_of_an_unknown_character_is_ignored() {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.logout(9), []);
    assert_eq!(tenant.character(9), None);
}

#[test]
fn a_logout_looks_an_unseen_character_up() {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.logout(2), []);
    let expected = json!({"id": 2, "name": "Bob", "worldId": 2, "channelId": 0, "messengerId": 0, "online": false});
    assert_eq!(tenant.character(2), Some(expected));
}

#[test]
fn a_member_that_logs_out_leaves() {
    let mut tenant = full_messenger();
    tenant.login(2, 2, 3);
    assert_eq!(tenant.logout(2), [member("LOGOUT", 2, M, 2), left(2, 2, M, 1)]);
    let expected = json!({"id": 2, "name": "Bob", "worldId": 2, "channelId": 3, "messengerId": 0, "online": false});
    assert_eq!(tenant.character(2), Some(expected));
    assert_eq!(tenant.logout(2), []);
    assert_eq!(tenant.join(4, M), [joined(4, 4, M, 1)]);
}

#[test]
fn a_channel_change_of_an_unknown_character_is_ignored() {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.change_channel(9, 5), []);
    assert_eq!(tenant.character(9), None);
}

#[test]
fn a_channel_change_is_not_announced() {
    let mut tenant = full_messenger();
    tenant.login(2, 2, 3);
    assert_eq!(tenant.change_channel(2, 5), []);
    let expected = json!({"id": 2, "name": "Bob", "worldId": 2, "channelId": 5, "messengerId": M, "online": true});
    assert_eq!(tenant.character(2), Some(expected));
}

#[test]
fn a_channel_change_does_not_put_a_character_online() {
    let mut tenant = Tenant::with_directory();
    tenant.change_channel(2, 5);
    let expected = json!({"id": 2, "name": "Bob", "worldId": 2, "channelId": 5, "messengerId": 0, "online": false});
    assert_eq!(tenant.character(2), Some(expected));
}

#[test]
fn a_deleted_member_leaves_and_is_forgotten() {
    let mut tenant = full_messenger();
    assert_eq!(tenant.delete(2), [member("LOGOUT", 2, M, 2), left(2, 2, M, 1)]);
    assert_eq!(tenant.character(2), None);
    assert_eq!(tenant.join(4, M), [joined(4, 4, M, 1)]);
}

#[test]
fn a_deleted_character_is_looked_up_again() {
    let mut tenant = Tenant::with_directory();
    tenant.login(2, 7, 3);
    assert_eq!(tenant.delete(2), []);
    assert_eq!(tenant.create(2), [created(2, 2, M)]);
}

#[test]
fn a_deletion_of_an_unknown_character_is_ignored() {
    let mut tenant = Tenant::with_directory();
    assert_eq!(tenant.delete(9), []);
    assert_eq!(tenant.delete(2), []);
    assert!(tenant.bench.state.0.is_empty());
}

#[test]
fn a_character_whose_command_fails_is_known_too() {
    let mut tenant = Tenant::with_directory();
    tenant.join(2, 5);
    tenant.directory_knows(2, "Rob", 9);
    assert_eq!(tenant.create(2), [created(2, 2, M)]);
}

#[test]
fn character_0_is_like_any_other() {
    let mut tenant = Tenant::with_directory();
    tenant.directory_knows(0, "", 255);
    assert_eq!(tenant.create(0), [created(0, 255, M)]);
    assert_eq!(tenant.request_invite(1, 0), [named_error(ALREADY_2, 1, M, 255, "")]);
    assert_eq!(tenant.logout(0), [member("LOGOUT", 255, M, 0), left(0, 255, M, 0)]);
}

#[test]
fn other_commands_and_events_are_ignored() {
    let mut tenant = Tenant::with_directory();
    for kind in ["", "create", "CREATE ", "DESTROY", "CHAT"] {
        assert_eq!(tenant.send(COMMANDS, command(1, kind, "{}")), Ok(vec![]));
    }
    for kind in ["MAP_CHANGED", "NAME_CHANGED", "WORLD_CHANGED", "CREATED", "login"] {
        assert_eq!(tenant.send(CHARACTERS, character_status(1, 1, kind, "{}")), Ok(vec![]));
    }
    assert!(tenant.bench.state.0.is_empty());
}
