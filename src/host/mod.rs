//! What the machine and the container give this process: groups of processes, cores, open files.

mod cores;
mod groups;
mod held_file;

pub use cores::cpu_quota;
pub(crate) use groups::Groups;
pub(crate) use held_file::HeldFile;

/// How many files this process may have open now; `None` where that is not known or not limited.
#[must_use]
pub fn open_files_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}
