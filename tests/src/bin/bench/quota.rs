//! CPU quotas for processes, by control groups of Linux: version 1 and version 2, where this process may create groups.
//!
//! A group is removed when its [`Quota`] is dropped. The group of a benchmark that was killed is removed by the next one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use switchboard_tests::host::Host;
use switchboard_tests::progress::Stall;

/// The kernel's default period. A process that has used its quota waits for the next period.
const PERIOD_US: u32 = 100_000;
/// Each group's name begins with it. The pid of this process and a number follow.
const NAME_PREFIX: &str = "switchboard-bench-";
/// How long a group may stay busy after its last process has ended.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A place where groups with a quota can be created.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Quotas {
    parent: PathBuf,
    version: Version,
}

/// The group of one process. Dropping it removes the group, and the quota with it.
#[derive(Debug)]
pub(crate) struct Quota {
    directory: PathBuf,
}

impl Quotas {
    /// Finds the first place where a group can be created.
    ///
    /// # Errors
    /// Why no group can be created in any of them.
    pub(crate) fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let mut reasons = Vec::new();
        for quotas in places(&mounts, &own) {
            quotas.remove_leftovers();
            match quotas.create(1.0) {
                Ok(_) => return Ok(quotas),
                Err(error) => reasons.push(format!("{error:#}")),
            }
        }
        if reasons.is_empty() {
            bail!("no control groups are mounted");
        }
        bail!("{}", reasons.join("; "))
    }

    /// Holds a host to this share of a core.
    pub(crate) fn hold(&self, host: &Host, share: f64) -> Result<Quota> {
        let quota = self.create(share)?;
        write(&quota.directory.join("cgroup.procs"), &host.pid().as_raw_pid().to_string())?;
        Ok(quota)
    }

    fn create(&self, share: f64) -> Result<Quota> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if self.version == Version::Two {
            // It fails where the controller is on already, and where it cannot be; then `cpu.max` is missing below.
            let _ = fs::write(self.parent.join("cgroup.subtree_control"), "+cpu");
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = self.parent.join(format!("{NAME_PREFIX}{}-{number}", process::id()));
        fs::create_dir(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let quota = Quota { directory };
        let limit = format!("{:.0}", share * f64::from(PERIOD_US));
        match self.version {
            Version::One => {
                write(&quota.directory.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&quota.directory.join("cpu.cfs_quota_us"), &limit)?;
            }
            Version::Two => write(&quota.directory.join("cpu.max"), &format!("{limit} {PERIOD_US}"))?,
        }
        Ok(quota)
    }

    /// Removes the groups of benchmarks that no longer run.
    fn remove_leftovers(&self) {
        let entries = fs::read_dir(&self.parent).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix(NAME_PREFIX)?.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // A group with processes stays.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // Only a group without processes can be removed.
        let processes = fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        let parent = self.directory.with_file_name("cgroup.procs");
        for pid in processes.lines() {
            let _ = fs::write(&parent, pid);
        }
        let mut stall = Stall::with_limit((), REMOVAL_LIMIT);
        while let Err(error) = fs::remove_dir(&self.directory) {
            if stall.check(()).is_err() {
                eprintln!("the control group {} cannot be removed: {error}", self.directory.display());
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("writing {text:?} to {}", file.display()))
}

/// The places that may have groups with a quota: for each hierarchy with CPU quotas the group of this process, then the
/// groups above it. `mounts`: `/proc/mounts`; `own`: `/proc/self/cgroup`.
fn places(mounts: &str, own: &str) -> Vec<Quotas> {
    let mut places = Vec::new();
    for mount in mounts.lines() {
        let fields: Vec<_> = mount.split(' ').collect();
        let [_, mount, kind, options, ..] = fields[..] else { continue };
        let version = match kind {
            "cgroup" if options.split(',').any(|option| option == "cpu") => Version::One,
            "cgroup2" => Version::Two,
            _ => continue,
        };
        let mount = Path::new(mount);
        let own = own_group(own, version).trim_start_matches('/');
        let groups = Path::new(own).ancestors().map(|group| mount.join(group));
        places.extend(groups.map(|parent| Quotas { parent, version }));
    }
    places
}

/// The group of this process in the hierarchy with CPU quotas. A line is `<number>:<controllers>:<group>`, and has no
/// controllers for version 2.
fn own_group(own: &str, version: Version) -> &str {
    let lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let mut groups = lines.filter(|(controllers, _)| match version {
        Version::One => controllers.split(',').any(|controller| controller == "cpu"),
        Version::Two => controllers.is_empty(),
    });
    groups.next().map_or("/", |(_, group)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents(mounts: &str, own: &str) -> Vec<(String, Version)> {
        let places = places(mounts, own).into_iter();
        places
            .map(|quotas| (quotas.parent.display().to_string().trim_end_matches('/').to_owned(), quotas.version))
            .collect()
    }

    #[test]
    fn version_1_is_found_by_its_controller() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0";
        let own = "4:memory:/a\n2:cpu,cpuacct:/b/c\n1:cpuset:/";
        let found = ["/sys/fs/cgroup/cpu,cpuacct/b/c", "/sys/fs/cgroup/cpu,cpuacct/b", "/sys/fs/cgroup/cpu,cpuacct"];
        assert_eq!(parents(mounts, own), found.map(|parent| (parent.to_owned(), Version::One)));
    }

    #[test]
    fn version_2_is_found_without_controllers() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0";
        let found = ["/sys/fs/cgroup/user", "/sys/fs/cgroup"];
        assert_eq!(parents(mounts, "0::/user"), found.map(|parent| (parent.to_owned(), Version::Two)));
    }

    #[test]
    fn without_control_groups_there_is_no_place() {
        assert!(places("proc /proc proc rw 0 0", "0::/").is_empty());
    }
}
