//! The name of this process among the processes of its application.

use std::fs::File;
use std::io;
use std::path::PathBuf;

/// A process of an application. Its id is part of the transactional ids of its members.
///
/// Two processes with the same id fence each other. A process that restarts with its previous id fences its dead
/// predecessor at once; with another id it would wait for the transaction timeout.
#[derive(Debug)]
pub(crate) struct ProcessInstance {
    pub(crate) id: String,
    /// Held while the process runs, so that no other process takes the slot.
    _lock: Option<File>,
}

/// How many slots of other users' processes are skipped. Beyond that the directory is probably not writable at all.
const MAX_FOREIGN_SLOTS: u32 = 1000;

impl ProcessInstance {
    /// Takes the configured id, or else the host name and the first slot number whose lock file is free.
    ///
    /// # Errors
    /// When lock files cannot be created in the system's directory for temporary files.
    pub(crate) fn claim(app: &str, configured: Option<&str>) -> io::Result<Self> {
        if let Some(id) = configured {
            return Ok(Self { id: id.to_owned(), _lock: None });
        }
        let node = rustix::system::uname();
        let host = node.nodename().to_string_lossy();
        for slot in 0_u32.. {
            let file = match File::options().create(true).truncate(false).write(true).open(lock_path(app, slot)) {
                // The file belongs to a process of another user.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && slot < MAX_FOREIGN_SLOTS => continue,
                file => file?,
            };
            match file.try_lock() {
                Ok(()) => return Ok(Self { id: format!("{host}-{slot}"), _lock: Some(file) }),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        unreachable!("there are fewer processes than slot numbers")
    }
}

fn lock_path(app: &str, slot: u32) -> PathBuf {
    std::env::temp_dir().join(format!("switchboard-{app}-{slot}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_of_a_machine_has_its_own_slot_and_free_slots_are_reused() {
        let app = format!("test-{}", std::process::id());
        let first = ProcessInstance::claim(&app, None).unwrap();
        let second = ProcessInstance::claim(&app, None).unwrap();
        assert!(first.id.ends_with("-0") && second.id.ends_with("-1"), "{first:?} {second:?}");
        drop(first);
        assert!(ProcessInstance::claim(&app, None).unwrap().id.ends_with("-0"));
        assert_eq!(ProcessInstance::claim(&app, Some("mine")).unwrap().id, "mine");
        for slot in 0..2 {
            std::fs::remove_file(lock_path(&app, slot)).unwrap();
        }
    }
}
