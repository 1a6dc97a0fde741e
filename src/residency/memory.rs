//! One reading of memory: of the process, of the groups around it and of the machine.

use std::io;
use std::path::Path;
use std::time::Instant;

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::container::Container;
use super::fields::kib_field;
use super::process::ProcessFiles;
use crate::host::HeldFile;

/// One reading. All figures in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Proportional set size: a page that several mappings share counts once. The resident set
    /// where the kernel does not tell it.
    pub resident_bytes: u64,
    /// Memory of the process with no file behind it.
    pub anonymous_bytes: u64,
    /// Resident pages of mapped files, which the kernel can take back.
    pub file_bytes: u64,
    /// Anonymous, shared and kernel memory of the process: what the kernel cannot take back.
    pub unreclaimable_bytes: u64,
    /// Every limit that this process can run into: of its group, of each group around it, and the
    /// machine's memory.
    pub limits: Vec<MemoryLimit>,
    /// Page faults of the process that had to read from disk, since its start.
    pub major_faults: u64,
    /// Bytes that the process has had read from disk since its start, reading ahead included.
    pub disk_read_bytes: u64,
    /// Times that the kernel has killed in this container.
    pub container_kills: Option<u64>,
    /// Whether the kernel ends all processes of the container when it ends one for want of memory.
    pub is_killed_as_one: bool,
    /// When all of it was read last.
    pub read_at: Option<Instant>,
    /// Whether the last try failed to read some of it; what could not be read is older then.
    pub is_stale: bool,
}

impl Reading {
    /// The lowest of all limits on memory: of the container, or of the machine. `None` only where
    /// neither can be read.
    #[must_use]
    pub fn memory_limit_bytes(&self) -> Option<u64> {
        self.limits.iter().map(|limit| limit.limit_bytes).min()
    }
}

/// A limit on memory, and what counts towards it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    /// What limits.
    pub from: LimitFrom,
    /// The limit.
    pub limit_bytes: u64,
    /// Memory under it that the kernel cannot take back, of all processes.
    pub unreclaimable_bytes: u64,
    /// Memory under it with the page cache.
    pub usage_bytes: u64,
}

/// What a limit on memory is a limit of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitFrom {
    /// A group of processes, above which the kernel kills.
    Cgroup,
    /// `memory.high` of a group, above which the kernel slows its processes down.
    MemoryHigh,
    /// The machine's memory, where no group has a lower limit.
    Machine,
}

impl LimitFrom {
    /// Its name on the wire and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::MemoryHigh => "memory.high",
            Self::Machine => "machine",
        }
    }
}

/// Takes readings of the running process. All files that are acted on are held open, so that readings
/// go on where the process may open no more.
pub struct Meter {
    system: Option<System>,
    pid: Pid,
    process: ProcessFiles,
    machine: Option<HeldFile>,
    container: Container,
    last: Reading,
}

impl Meter {
    /// A meter of this process and the container it is in.
    #[must_use]
    pub fn new() -> Self {
        let system = System::new()
            .inspect_err(|error| log::warn!("sysinfo cannot read this system ({error}); only /proc is read"))
            .ok();
        Self {
            system,
            pid: Pid::from_u32(std::process::id()),
            process: ProcessFiles::open(),
            machine: HeldFile::open(Path::new("/proc/meminfo")).ok(),
            container: Container::find(),
            last: Reading::default(),
        }
    }

    /// Reads everything anew.
    pub fn read(&mut self) -> Reading {
        self.process.forget_walk();
        self.read_cheaply()
    }

    /// The same at little cost: what mapped files take is read only when their resident pages have
    /// moved, or after some seconds. What cannot be read keeps what it was in the last reading, which
    /// says then that it is stale.
    pub fn read_cheaply(&mut self) -> Reading {
        let mut reading = std::mem::take(&mut self.last);
        let was_stale = std::mem::replace(&mut reading.is_stale, true);
        match self.read_into(&mut reading) {
            Ok(()) => {
                reading.is_stale = false;
                reading.read_at = Some(Instant::now());
                if was_stale {
                    log::info!("memory can be read again");
                }
            }
            Err(error) if !was_stale => {
                log::warn!("memory cannot be read; what the last reading says counts until it can: {error}");
            }
            Err(_) => {}
        }
        self.last = reading.clone();
        reading
    }

    /// Reads each part even where another cannot be read; the error is that of the first of those.
    fn read_into(&mut self, reading: &mut Reading) -> io::Result<()> {
        let seen = self.ask_sysinfo();
        let process = self.process.read_into(reading);
        if let Some(Seen { resident_bytes, .. }) = seen.as_ref().filter(|_| reading.resident_bytes == 0) {
            reading.resident_bytes = *resident_bytes;
        }
        let machine = match seen {
            Some(seen) => Ok(seen.machine),
            None => self.machine.as_mut().map_or_else(|| Err(io::Error::other("/proc/meminfo is closed")), machine),
        };
        let kept = || reading.limits.iter().copied().find(|limit| limit.from == LimitFrom::Machine);
        let whole = machine.as_ref().ok().copied().or_else(kept);
        let container = self.container.read().map(|container| {
            reading.container_kills = container.kills;
            reading.is_killed_as_one = container.is_killed_as_one;
            reading.limits = container.limits;
            // A group cannot reach a limit above what the machine has.
            reading.limits.retain(|limit| whole.is_none_or(|machine| limit.limit_bytes < machine.limit_bytes));
        });
        reading.limits.retain(|limit| limit.from != LimitFrom::Machine);
        // What this process took while it was in another group counts towards that one.
        for limit in &mut reading.limits {
            limit.unreclaimable_bytes = limit.unreclaimable_bytes.max(reading.unreclaimable_bytes);
        }
        reading.limits.extend(whole);
        process.and(machine.map(drop)).and(container)
    }

    /// What `sysinfo` tells of this process and of the machine. It opens files for it, and keeps the
    /// figures of before where it may not; `None` then.
    fn ask_sysinfo(&mut self) -> Option<Seen> {
        let system = self.system.as_mut()?;
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let only_memory = ProcessRefreshKind::nothing().with_memory();
        let only_this = ProcessesToUpdate::Some(&[self.pid]);
        if system.refresh_processes_specifics(only_this, false, only_memory) == 0 {
            return None;
        }
        let (total, free, available) = (system.total_memory(), system.free_memory(), system.available_memory());
        Some(Seen { resident_bytes: system.process(self.pid)?.memory(), machine: of_machine(total, free, available) })
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

/// What `sysinfo` tells.
struct Seen {
    resident_bytes: u64,
    machine: MemoryLimit,
}

/// What `/proc/meminfo` tells.
fn machine(file: &mut HeldFile) -> io::Result<MemoryLimit> {
    let text = file.read()?;
    let figure = |key| kib_field(text, key).ok_or_else(|| io::Error::other(format!("no {key} in /proc/meminfo")));
    Ok(of_machine(figure("MemTotal:")?, figure("MemFree:")?, figure("MemAvailable:")?))
}

fn of_machine(total: u64, free: u64, available: u64) -> MemoryLimit {
    MemoryLimit {
        from: LimitFrom::Machine,
        limit_bytes: total,
        unreclaimable_bytes: total.saturating_sub(available),
        usage_bytes: total.saturating_sub(free),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_of_this_process_is_plausible() {
        let reading = Meter::new().read();
        assert!(reading.resident_bytes > 1 << 20, "{reading:?}");
        assert!(reading.anonymous_bytes > 100 << 10, "{reading:?}");
        assert!(reading.unreclaimable_bytes >= reading.anonymous_bytes, "{reading:?}");
        assert!(reading.limits.iter().all(|limit| limit.unreclaimable_bytes >= reading.anonymous_bytes), "{reading:?}");
        assert!(!reading.is_stale, "{reading:?}");
    }

    #[test]
    fn the_machines_memory_is_always_a_limit_and_the_highest() {
        let limits = Meter::new().read().limits;
        let machine = limits.iter().find(|limit| limit.from == LimitFrom::Machine).unwrap();
        assert!(limits.iter().all(|limit| limit.limit_bytes <= machine.limit_bytes), "{limits:?}");
        assert!(machine.unreclaimable_bytes < machine.limit_bytes, "{limits:?}");
    }

    #[test]
    fn what_sysinfo_tells_of_the_machine_is_what_the_held_file_tells() {
        let mut meter = Meter::new();
        let seen = meter.ask_sysinfo().unwrap().machine;
        let held = machine(meter.machine.as_mut().unwrap()).unwrap();
        assert_eq!(seen.limit_bytes, held.limit_bytes);
        assert!(seen.unreclaimable_bytes.abs_diff(held.unreclaimable_bytes) < 512 << 20, "{seen:?} {held:?}");
    }

    #[test]
    fn anonymous_memory_that_is_touched_shows_up() {
        let mut meter = Meter::new();
        let before = meter.read();
        let ballast = vec![1_u8; 32 << 20];
        let after = meter.read();
        assert!(after.anonymous_bytes >= before.anonymous_bytes + (30 << 20), "{before:?} {after:?}");
        let more = vec![1_u8; 32 << 20];
        let cheap = meter.read_cheaply();
        assert!(cheap.resident_bytes >= after.resident_bytes + (30 << 20), "{after:?} {cheap:?}");
        assert_eq!(ballast[12345] + more[12345], 2);
    }

    #[test]
    fn what_cannot_be_read_keeps_what_it_was_and_says_that_it_is_old() {
        let mut meter = Meter::new();
        let before = meter.read();
        // Neither sysinfo nor the held file, as a folder cannot be read: the machine's figures stay.
        let system = meter.system.take();
        let machine = meter.machine.replace(HeldFile::open(Path::new("/proc")).unwrap());
        let stale = meter.read();
        assert!(stale.is_stale, "{stale:?}");
        assert_eq!(stale.read_at, before.read_at);
        assert_eq!(stale.memory_limit_bytes(), before.memory_limit_bytes());
        // What can be read is as new as ever.
        let ballast = vec![1_u8; 32 << 20];
        assert!(meter.read().anonymous_bytes >= stale.anonymous_bytes + (30 << 20));
        assert_eq!(ballast[12345], 1);
        meter.machine = machine;
        let held = meter.read();
        assert!(!held.is_stale && held.read_at > before.read_at, "without sysinfo: {held:?}");
        meter.system = system;
        assert!(!meter.read().is_stale);
    }
}
