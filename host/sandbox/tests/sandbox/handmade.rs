//! Components written by hand, for what no Rust program compiles to.

use std::fmt::Write as _;

/// A plugin whose parts can be replaced.
pub(crate) struct Handmade {
    pub(crate) name: &'static str,
    pub(crate) consumes: &'static str,
    /// In the component, before everything else.
    pub(crate) imports: String,
    /// Further core modules and instances.
    pub(crate) cores: String,
    /// In the core module.
    pub(crate) items: String,
    /// Instructions before `describe` returns.
    pub(crate) describe: &'static str,
    /// Instructions before `handle` returns no outputs.
    pub(crate) handle: &'static str,
    /// The interface that the world `migrating-plugin` adds. `None`: a component of the world `plugin`.
    pub(crate) migration: Option<Migration>,
}

/// The interface `migration`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Migration {
    /// What `migrates-from` returns.
    pub(crate) versions: &'static [usize],
    /// Instructions before it returns.
    pub(crate) before: &'static str,
}

impl Default for Handmade {
    fn default() -> Self {
        Self {
            name: "handmade",
            consumes: "IN",
            imports: String::new(),
            cores: String::new(),
            items: String::new(),
            describe: "",
            handle: "",
            migration: None,
        }
    }
}

impl Handmade {
    pub(crate) fn build(&self) -> Vec<u8> {
        wat::parse_str(self.text()).unwrap()
    }

    /// The component with a part of its text replaced.
    pub(crate) fn build_with(&self, part: &str, other: &str) -> Vec<u8> {
        let text = self.text();
        assert!(text.contains(part), "the text has no {part}");
        wat::parse_str(text.replace(part, other)).unwrap()
    }

    fn text(&self) -> String {
        let Self { name, consumes, imports, cores, items, describe, handle, migration } = self;
        // name, version, consumes, produces, lookups (pointer and length each), state version
        let numbers = [64, name.len(), 128, 5, 192, 1, 0, 0, 0, 0, 1];
        let manifest = words(&numbers);
        let list = words(&[256, consumes.len()]);
        let Migration { versions, before } = migration.unwrap_or_default();
        let (length, versions) = (versions.len(), words(versions));
        let migration = migration.map_or("", |_| MIGRATION);
        format!(
            r#"(component
              {imports}
              {cores}
              (core module $m
                {items}
                (memory (export "memory") 1)
                (global $heap (mut i32) (i32.const 4096))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                  global.get $heap
                  (global.set $heap (i32.and (i32.const -8)
                    (i32.add (global.get $heap) (i32.add (local.get 3) (i32.const 7))))))
                (func (export "describe") (result i32) {describe} i32.const 1024)
                (func (export "handle")
                  (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64) (result i32)
                  {handle}
                  ;; Frees all: the memory has room for one message.
                  (global.set $heap (i32.const 4096))
                  i32.const 2048)
                (func (export "migrates-from") (result i32) {before}
                  (i32.store (i32.const 3072) (i32.const 3080))
                  (i32.store (i32.const 3076) (i32.const {length}))
                  i32.const 3072)
                (func (export "migrate") (param i32) (result i32) i32.const 3200)
                (data (i32.const 3080) "{versions}")
                (data (i32.const 64) "{name}")
                (data (i32.const 128) "1.0.0")
                (data (i32.const 192) "{list}")
                (data (i32.const 256) "{consumes}")
                (data (i32.const 1024) "{manifest}"))
              (core instance $i (instantiate $m))
              (type $header-type (record (field "name" string) (field "value" (option (list u8)))))
              (export $header "header" (type $header-type))
              (type $message-type (record (field "topic" string) (field "tenant" string)
                (field "key" (option (list u8))) (field "value" (option (list u8)))
                (field "headers" (list $header)) (field "timestamp" u64)))
              (export $message "message" (type $message-type))
              (type $outbound-type (record (field "topic" string)
                (field "key" (option (list u8))) (field "value" (option (list u8)))
                (field "headers" (list $header))))
              (export $outbound "outbound" (type $outbound-type))
              (type $rejection-type (variant (case "invalid" string) (case "unusable-answer" string)))
              (export $rejection "rejection" (type $rejection-type))
              (type $manifest-type (record (field "name" string) (field "version" string)
                (field "consumes" (list string)) (field "produces" (list string)) (field "lookups" (list string))
                (field "state-version" u32)))
              (export $manifest "manifest" (type $manifest-type))
              (func $describe (result $manifest)
                (canon lift (core func $i "describe") (memory (core memory $i "memory"))))
              (func $handle (param "message" $message) (result (result (list $outbound) (error $rejection)))
                (canon lift (core func $i "handle") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
              (instance $handler (export "describe" (func $describe)) (export "handle" (func $handle)))
              (export "switchboard:plugin/handler@0.1.0" (instance $handler))
              {migration})"#
        )
    }
}

const MIGRATION: &str = r#"
    (func $migrates-from (result (list u32))
      (canon lift (core func $i "migrates-from") (memory (core memory $i "memory"))))
    (func $migrate (param "from" u32) (result (result (error string)))
      (canon lift (core func $i "migrate") (memory (core memory $i "memory"))))
    (instance $migration (export "migrates-from" (func $migrates-from)) (export "migrate" (func $migrate)))
    (export "switchboard:plugin/migration@0.1.0" (instance $migration))"#;

/// Little-endian 32-bit words, as the text format writes bytes.
fn words(numbers: &[usize]) -> String {
    let mut text = String::new();
    for byte in numbers.iter().flat_map(|number| u32::try_from(*number).unwrap().to_le_bytes()) {
        write!(text, "\\{byte:02x}").unwrap();
    }
    text
}
