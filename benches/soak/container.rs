//! A memory cgroup for the server, version 1 or 2, as a container has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// Removed when dropped, once the server is gone.
pub struct Container {
    folder: PathBuf,
    is_v1: bool,
}

impl Container {
    /// A group with a limit.
    ///
    /// # Errors
    /// Says what is missing, and what it would take.
    pub fn new(limit_mb: u64) -> Result<Self, String> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let is_v1 = v1.join("memory.limit_in_bytes").is_file();
        let (root, file) =
            if is_v1 { (v1, "memory.limit_in_bytes") } else { (Path::new("/sys/fs/cgroup"), "memory.max") };
        let folder = root.join(format!("emotion-soak-{}", std::process::id()));
        let refused = |error: std::io::Error| {
            format!("{} cannot be made ({error}); run as root where memory cgroups can be written", folder.display())
        };
        fs::create_dir(&folder).map_err(refused)?;
        let container = Self { folder: folder.clone(), is_v1 };
        fs::write(folder.join(file), (limit_mb << 20).to_string()).map_err(refused)?;
        Ok(container)
    }

    /// A command that runs the program in the group.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(r#"echo $$ > "$0" && exec "$@""#).arg(self.folder.join("cgroup.procs")).arg(program);
        command
    }

    /// How often the kernel has killed in it.
    pub fn kills(&self) -> u64 {
        let text = self.read(if self.is_v1 { "memory.oom_control" } else { "memory.events" });
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        kills.unwrap_or_else(|| panic!("no oom_kill in {text}"))
    }

    /// What counts towards the limit, page cache included.
    pub fn usage_mb(&self) -> f64 {
        let text = self.read(if self.is_v1 { "memory.usage_in_bytes" } else { "memory.current" });
        text.trim().parse::<f64>().expect("it is a number") / f64::from(1 << 20)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        eprintln!("{} could not be removed", self.folder.display());
    }
}
