//! The keys of the config file's nested tables, for the configuration reference: they have no flags.

/// A key of a nested table.
pub struct NestedKey {
    /// The table, as the file writes it.
    pub table: &'static str,
    pub key: &'static str,
    pub kind: &'static str,
    pub default: &'static str,
    pub meaning: &'static str,
}

/// All keys of nested tables, in the order of the reference.
pub const NESTED_KEYS: &[NestedKey] = &[
    NestedKey {
        table: "[[tenant-headers]]",
        key: "name",
        kind: "text",
        default: "required",
        meaning: "The header's name.",
    },
    NestedKey {
        table: "[[tenant-headers]]",
        key: "type",
        kind: "`uuid`, `text`, `u8`, `u16`, `u32` or `u64`",
        default: "required",
        meaning: "How the header's value is decoded. Numbers are big-endian.",
    },
    NestedKey {
        table: "[lookups.NAME]",
        key: "url",
        kind: "URL",
        default: "required",
        meaning: "The URL template, with `{base}` and `{key}`.",
    },
    NestedKey {
        table: "[lookups.NAME]",
        key: "base-env",
        kind: "list of text",
        default: "`NAME_SERVICE_URL`, `BASE_SERVICE_URL`",
        meaning: "Environment variables that may contain `{base}`. The first one that is set counts.",
    },
    NestedKey {
        table: "[lookups.NAME]",
        key: "timeout-ms",
        kind: "milliseconds",
        default: "1000",
        meaning: "The time limit of one request.",
    },
    NestedKey {
        table: "[lookups.NAME]",
        key: "retries",
        kind: "number",
        default: "5",
        meaning: "How often a failed request is repeated.",
    },
    NestedKey {
        table: "[lookups.NAME]",
        key: "hit-ttl-ms",
        kind: "milliseconds",
        default: "60000",
        meaning: "How long an answer is cached.",
    },
    NestedKey {
        table: "[lookups.NAME]",
        key: "miss-ttl-ms",
        kind: "milliseconds",
        default: "5000",
        meaning: "How long \"not found\" is cached.",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use switchboard_core::record::{HeaderKind, TenantHeader};
    use switchboard_lookup::SourceOptions;

    use super::*;

    fn check(table: &str, value: &serde_json::Value) {
        let documented = NESTED_KEYS.iter().filter(|key| key.table == table);
        let keys: BTreeSet<_> = documented.clone().map(|key| key.key).collect();
        let actual: BTreeSet<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, actual, "{table}");
        for NestedKey { key, default, .. } in documented {
            if let Some(number) = value[key].as_u64() {
                assert_eq!(number.to_string(), *default, "{table} {key}");
            }
        }
    }

    #[test]
    fn every_nested_key_is_documented_with_its_default() {
        check("[lookups.NAME]", &serde_json::to_value(SourceOptions::new(String::new())).unwrap());
        let header = TenantHeader { name: "A".into(), kind: HeaderKind::Text };
        check("[[tenant-headers]]", &serde_json::to_value(header).unwrap());
    }
}
