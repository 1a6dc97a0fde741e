//! What the machine and the container give this process: groups of processes, cores, threads, open files.

mod cores;
mod groups;
mod held_file;
mod open_files;
pub(crate) mod threads;

pub use cores::cpu_quota;
pub(crate) use groups::Groups;
pub(crate) use held_file::HeldFile;
pub use open_files::{open_files_limit, raise_open_files_limit};
