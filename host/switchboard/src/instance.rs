use std::fs::File;
use std::io;
use std::path::PathBuf;

/// Who this process is among those of its application: makes up its transactional ids.
///
/// Two processes with the same id fence each other; a restarted process with its former id fences its dead predecessor
/// at once, instead of waiting for the transaction time-out.
#[derive(Debug)]
pub struct ProcessInstance {
    pub id: String,
    /// Held while the process lives: the slot is its own.
    _lock: Option<File>,
}

impl ProcessInstance {
    /// The id that was set; else the host's name and the first slot number whose lock file is free.
    ///
    /// # Errors
    /// When lock files cannot be made in the system's directory for temporary files.
    pub fn claim(app: &str, configured: Option<&str>) -> io::Result<Self> {
        if let Some(id) = configured {
            return Ok(Self { id: id.to_owned(), _lock: None });
        }
        let node = rustix::system::uname();
        let host = node.nodename().to_string_lossy();
        for slot in 0_u32.. {
            let file = match File::options().create(true).truncate(false).write(true).open(lock_path(app, slot)) {
                // Another user's process had it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && slot < SLOTS => continue,
                file => file?,
            };
            match file.try_lock() {
                Ok(()) => return Ok(Self { id: format!("{host}-{slot}"), _lock: Some(file) }),
                Err(std::fs::TryLockError::WouldBlock) => {}
                Err(std::fs::TryLockError::Error(error)) => return Err(error),
            }
        }
        unreachable!("fewer processes than slot numbers")
    }
}

/// After so many slots of others, a directory that nobody may write to is the likelier reason.
const SLOTS: u32 = 1000;

fn lock_path(app: &str, slot: u32) -> PathBuf {
    std::env::temp_dir().join(format!("switchboard-{app}-{slot}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_one_machine_have_slots_of_their_own_and_free_ones_are_taken_again() {
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
