//! What was measured on.

use std::fs;

use serde::Serialize;

/// Instructions for products of int8, as `/proc/cpuinfo` names them.
const VNNI: [&str; 2] = ["avx512_vnni", "avx_vnni"];

/// The processor, memory and kernel of this machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    /// Which of [`VNNI`] the processor has.
    pub vnni: Vec<&'static str>,
    pub memory_mb: u64,
    pub kernel: String,
    /// Processes that ran or wanted to in the minute before; on a quiet machine close to 0.
    pub load_average: f64,
}

impl Machine {
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        let flags = field(&cpu, "flags").unwrap_or_default();
        let memory_kb = field(&memory, "MemTotal").and_then(|total| total.split(' ').next()?.parse::<u64>().ok());
        let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok());
        Self {
            cpu: field(&cpu, "model name").unwrap_or(std::env::consts::ARCH).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            vnni: VNNI.into_iter().filter(|name| flags.split(' ').any(|flag| flag == *name)).collect(),
            memory_mb: memory_kb.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: load.unwrap_or(f64::NAN),
        }
    }

    pub fn print(&self) {
        println!(
            "{} cores of {} ({}), {} MB, Linux {}, load average {:.1}",
            self.cores,
            self.cpu,
            if self.vnni.is_empty() { "no VNNI".to_owned() } else { self.vnni.join(" and ") },
            self.memory_mb,
            self.kernel,
            self.load_average
        );
    }
}

/// The value in the first `name : value` of the text.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}
