//! The cache of compiled code: what it keeps, and that nothing wrong in it is ever run.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use switchboard_sandbox::{Limits, Sandbox};
use tempfile::TempDir;

use crate::handmade::Handmade;
use crate::support::{hostile_path, log_of};

const HIT: &str = "compiled code was read from the cache";
const MISS: &str = "the cache has no code of it";
const UNUSED: &str = "its cached code cannot be used";

/// A cache with one entry: its folder, the entry's path and bytes.
fn filled(plugin: &[u8]) -> (TempDir, PathBuf, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    assert!(load(&folder.path().join("code"), plugin).contains(MISS));
    let entries = entries(&folder.path().join("code"));
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    let bytes = fs::read(entry).unwrap();
    (folder, entry.clone(), bytes)
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Loads the plugin, which always succeeds. Returns the log.
fn load(directory: &Path, plugin: &[u8]) -> String {
    let lines = log_of(|| {
        let sandbox = Sandbox::new(Limits::default()).unwrap().with_cache(directory);
        let artifact = sandbox.load(plugin).unwrap();
        assert_eq!(artifact.manifest().consumes, ["IN"]);
    });
    lines.join("\n")
}

/// Whether the log says that the entry was not used, for this reason.
fn is_unused(log: &str, reason: &str) -> bool {
    log.contains(UNUSED) && log.contains(&format!("error={reason}"))
}

fn plugin(number: usize) -> Vec<u8> {
    Handmade { items: format!("(global i32 (i32.const {number}))"), ..Handmade::default() }.build()
}

#[test]
fn a_plugin_is_compiled_once() {
    let plugin = fs::read(hostile_path()).unwrap();
    let (folder, entry, bytes) = filled(&plugin);
    let log = load(&folder.path().join("code"), &plugin);
    assert!(log.contains(HIT), "{log}");
    assert!(fs::read(&entry).unwrap() == bytes);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder.path().join("code")), mode(&entry)), (0o700, 0o600));
}

#[test]
fn after_any_flipped_bit_the_plugin_is_compiled_again_and_the_entry_replaced() {
    let plugin = plugin(0);
    let (folder, entry, bytes) = filled(&plugin);
    let step = (bytes.len() / 150).max(1);
    let places = (0..64).chain((64..bytes.len()).step_by(step)).chain([bytes.len() - 1]);
    for (place, bit) in places.zip((0..8).cycle()) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << bit;
        fs::write(&entry, damaged).unwrap();
        let log = load(&folder.path().join("code"), &plugin);
        assert!(is_unused(&log, "it is damaged"), "bit {bit} of {place}: {log}");
        assert!(load(&folder.path().join("code"), &plugin).contains(HIT), "bit {bit} of {place}");
    }
}

#[test]
fn an_entry_that_is_too_short_too_long_or_of_another_plugin_is_replaced() {
    let plugin_bytes = plugin(0);
    let (folder, entry, bytes) = filled(&plugin_bytes);
    let other = filled(&plugin(1)).2;
    let mut long = bytes.clone();
    long.push(0);
    let short = [0, 1, 31, 32, 33, 1000, bytes.len() - 1].map(|length| bytes[..length].to_vec());
    for damaged in short.into_iter().chain([long, other]) {
        fs::write(&entry, &damaged).unwrap();
        let log = load(&folder.path().join("code"), &plugin_bytes);
        assert!(is_unused(&log, "it is damaged"), "{} bytes: {log}", damaged.len());
        assert!(load(&folder.path().join("code"), &plugin_bytes).contains(HIT));
    }
}

#[test]
fn code_that_others_could_have_written_is_not_run() {
    let plugin = plugin(0);
    let (folder, entry, _) = filled(&plugin);
    let directory = folder.path().join("code");
    fs::set_permissions(&entry, Permissions::from_mode(0o666)).unwrap();
    let log = load(&directory, &plugin);
    assert!(is_unused(&log, "it belongs to another user, or others may write to it"), "{log}");
    assert!(load(&directory, &plugin).contains(HIT), "it was replaced");
    fs::set_permissions(&directory, Permissions::from_mode(0o770)).unwrap();
    let log = load(&directory, &plugin);
    assert!(log.contains("compiled code is not kept") && log.contains("chmod 700"), "{log}");
}

#[test]
fn a_directory_that_cannot_be_used_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for directory in [&file, &file.join("below")] {
        let log = load(directory, &plugin(0));
        assert!(log.contains("WARN") && log.contains("compiled code is not kept"), "{log}");
    }
    // A directory in the place of the entry: it can be neither read nor replaced.
    let plugin = plugin(0);
    let (folder, entry, _) = filled(&plugin);
    fs::remove_file(&entry).unwrap();
    fs::create_dir(&entry).unwrap();
    let log = load(&folder.path().join("code"), &plugin);
    assert!(log.contains(UNUSED) && log.contains("compiled code cannot be cached"), "{log}");
    // A directory that disappears.
    let log = log_of(|| {
        let folder = tempfile::tempdir().unwrap();
        let sandbox = Sandbox::new(Limits::default()).unwrap().with_cache(&folder.path().join("code"));
        drop(folder);
        sandbox.load(&plugin).unwrap();
    });
    assert!(log.concat().contains("compiled code cannot be cached"), "{log:?}");
}

#[test]
fn the_least_recently_used_entries_and_abandoned_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("code");
    let age = |path: &Path, seconds| {
        let time = SystemTime::now() - Duration::from_secs(seconds);
        File::open(path).unwrap().set_modified(time).unwrap();
    };
    for number in 0..32 {
        load(&directory, &plugin(number));
        let newest = entries(&directory).into_iter().max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
        age(&newest.unwrap(), 10_000 - u64::try_from(number).unwrap());
    }
    assert!(load(&directory, &plugin(0)).contains(HIT));
    for (name, seconds) in [(".unfinished-old", 4000), (".unfinished-new", 0)] {
        fs::write(directory.join(name), "").unwrap();
        age(&directory.join(name), seconds);
    }
    assert!(load(&directory, &plugin(32)).contains(MISS));
    assert_eq!(entries(&directory).len(), 33, "32 and .unfinished-new");
    for (number, expected) in [(0, HIT), (2, HIT), (32, HIT), (1, MISS)] {
        let log = load(&directory, &plugin(number));
        assert!(log.contains(expected), "{number}: {log}");
    }
}

#[test]
fn concurrent_writers_never_see_half_an_entry() {
    let plugin = plugin(0);
    let (folder, entry, _) = filled(&plugin);
    let directory = folder.path().join("code");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..40 {
                    let log = load(&directory, &plugin);
                    assert!(log.contains(HIT) || log.contains(MISS), "{log}");
                    assert!(!log.contains("WARN"), "{log}");
                    // The next one to load writes the entry again.
                    let _ = fs::remove_file(&entry);
                }
            });
        }
    });
    load(&directory, &plugin);
    assert_eq!(entries(&directory).len(), 1);
}
