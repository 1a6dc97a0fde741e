//! A memory cgroup of its own for one test, version 1 or 2, and what the kernel counts in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::support::{self, Server};

pub const MB: u64 = 1 << 20;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A cgroup of one controller; removed, with the processes that are left in it, when dropped.
pub struct Group {
    folder: PathBuf,
    is_v1: bool,
    /// A group within another one is alone as long as that one is.
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Group {
    /// A new group with a limit on its memory; `None` where none can be made and a test may be skipped.
    pub fn of_memory(limit_mb: u64) -> Option<Self> {
        let limit = (limit_mb * MB).to_string();
        let group = Self::new("memory", ("memory.limit_in_bytes", &limit), ("memory.max", &limit))?;
        if !group.is_v1 {
            // Without this, anonymous memory would move to swap and the limit would not bite.
            let _no_swap_here = fs::write(group.folder.join("memory.swap.max"), "0");
        }
        Some(group)
    }

    /// The same with as much time of processors as one core has.
    pub fn of_one_core() -> Option<Self> {
        // The period is 100 ms unless somebody sets another.
        Self::new("cpu", ("cpu.cfs_quota_us", "100000"), ("cpu.max", "100000 100000"))
    }

    /// A group with a bound on its threads; there is none on its memory.
    pub fn of_threads(count: u64) -> Option<Self> {
        let count = count.to_string();
        Self::new("pids", ("pids.max", &count), ("pids.max", &count))
    }

    /// Sets another bound on the threads.
    pub fn limit_threads(&self, count: u64) {
        fs::write(self.folder.join("pids.max"), count.to_string()).unwrap();
    }

    /// How many threads are in it.
    pub fn threads(&self) -> u64 {
        fs::read_to_string(self.folder.join("pids.current")).unwrap().trim().parse().unwrap()
    }

    /// A group within this one, in which no process may be, with a limit of its own or none.
    pub fn within(&self, name: &str, limit_mb: Option<u64>) -> Self {
        let folder = self.folder.join(name);
        if !self.is_v1 {
            // Only where controllers are handed on do groups within have files of them.
            fs::write(self.folder.join("cgroup.subtree_control"), "+memory +cpu").unwrap();
        }
        fs::create_dir(&folder).unwrap();
        let group = Self { folder, is_v1: self.is_v1, _alone: None };
        if let Some(limit_mb) = limit_mb {
            group.limit(Some(limit_mb));
        }
        group
    }

    /// Sets another limit on its memory, or takes it away.
    pub fn limit(&self, limit_mb: Option<u64>) {
        let (file, none) = if self.is_v1 { ("memory.limit_in_bytes", "-1") } else { ("memory.max", "max") };
        let limit = limit_mb.map_or(none.to_owned(), |mb| (mb * MB).to_string());
        fs::write(self.folder.join(file), limit).unwrap();
    }

    /// Moves a process into this group.
    pub fn take(&self, pid: u32) {
        fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn new(controller: &str, v1: (&str, &str), v2: (&str, &str)) -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let root = Path::new("/sys/fs/cgroup");
        let is_v1 = root.join(controller).join("tasks").is_file();
        let (root, (file, limit)) = if is_v1 { (root.join(controller), v1) } else { (root.to_owned(), v2) };
        let name = format!("emotion-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = root.join(name);
        let made = fs::create_dir(&folder).map(|()| Self { folder: folder.clone(), is_v1, _alone: Some(alone) });
        match made.and_then(|group| fs::write(folder.join(file), limit).map(|()| group)) {
            Ok(group) => Some(group),
            Err(error) => {
                support::skip(&format!(
                    "no {controller} group can be made here ({}: {error}); run as root where cgroups can be written",
                    folder.join(file).display()
                ));
                None
            }
        }
    }

    /// The same command, started inside the group.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("/bin/sh");
        wrapped.arg("-c").arg(r#"echo $$ > "$0" && exec "$@""#).arg(self.folder.join("cgroup.procs"));
        wrapped.arg(command.get_program()).args(command.get_args());
        wrapped.env_clear();
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                wrapped.env(name, value);
            }
        }
        if !command.get_envs().any(|(name, _)| name == "PATH") {
            wrapped.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        }
        wrapped
    }

    /// A server in this group, with these environment variables.
    pub fn start(&self, variables: &[(&str, &str)]) -> Server {
        Server::start_command(self.wrap(&support::command(variables)))
    }

    /// How often the kernel has killed in this group.
    pub fn kills(&self) -> u64 {
        self.field(if self.is_v1 { "memory.oom_control" } else { "memory.events" }, "oom_kill")
    }

    fn field(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {key} in {file}: {text}")).trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..200 {
            for pid in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines() {
                let _gone = Command::new("kill").args(["-9", pid]).status();
            }
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} could not be removed", self.folder.display());
    }
}

/// Drops the pages of every file below `path` from the page cache, as long as nobody maps them.
pub fn drop_from_page_cache(path: &Path) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            drop_from_page_cache(&entry.unwrap().path());
        }
    } else if path.is_file() {
        // dd without a count tells the kernel that the file's pages are not needed any more.
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", path.display())).args(["iflag=nocache", "count=0", "status=none"]);
        assert!(dd.status().expect("dd runs").success());
    }
}
