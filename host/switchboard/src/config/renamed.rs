//! Settings that have been renamed: a config file, a flag or an environment variable with an old name is an error that
//! gives the new name.

/// The old and the new key of each renamed setting. The flag and the environment variable are derived from the key.
const RENAMED_SETTINGS: &[(&str, &str)] = &[
    ("cpu-time-ms", "max-cpu-time-ms"),
    ("fuel", "max-fuel"),
    ("log-lines", "plugin-log-lines"),
    ("lookup-time-ms", "lookup-timeout-ms"),
    ("memory-bytes", "max-memory-bytes"),
    ("migration-cpu-time-ms", "max-migration-cpu-time-ms"),
    ("migration-fuel", "max-migration-fuel"),
    ("on-failure", "on-release-failure"),
    ("workers", "members"),
];

/// The new key of a renamed setting.
pub fn new_key(old_key: &str) -> Option<&'static str> {
    RENAMED_SETTINGS.iter().find(|(old, _)| *old == old_key).map(|(_, new)| *new)
}

/// The new environment variable of a renamed setting.
pub fn new_variable(old_variable: &str) -> Option<String> {
    RENAMED_SETTINGS.iter().find(|(old, _)| variable(old) == old_variable).map(|(_, new)| variable(new))
}

/// The old keys, for tests of the documentation.
pub fn old_keys() -> impl Iterator<Item = &'static str> {
    RENAMED_SETTINGS.iter().map(|(old, _)| *old)
}

/// The environment variable of a setting: `SWITCHBOARD_MAX_FUEL` for `max-fuel`.
fn variable(key: &str) -> String {
    format!("SWITCHBOARD_{}", key.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn every_new_key_is_a_setting_and_no_old_key_is() {
        let settings = serde_json::to_value(Settings::default()).unwrap();
        for (old, new) in RENAMED_SETTINGS {
            assert!(settings.get(old).is_none(), "{old} is a setting");
            assert!(settings.get(new).is_some(), "{new} is not a setting");
        }
    }

    #[test]
    fn a_variable_follows_its_key() {
        assert_eq!(new_variable("SWITCHBOARD_ON_FAILURE").unwrap(), "SWITCHBOARD_ON_RELEASE_FAILURE");
        assert_eq!(new_variable("SWITCHBOARD_ON_RELEASE_FAILURE"), None);
        assert_eq!(new_key("on-failure"), Some("on-release-failure"));
    }
}
