//! How many cores this process may use: those that it may run on, or fewer by the quotas of its groups.

use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

use super::groups::Groups;

/// Cores that this process may use: those of the machine, of its affinity, or of the lowest quota among
/// its group and those around it, whichever are fewest. A part of a core counts only where there is no
/// whole one.
#[must_use]
pub fn cpu_quota() -> usize {
    // The standard library looks for quotas too, but only where groups are mounted in the usual way.
    let cores = available_parallelism().map_or(1, usize::from);
    Groups::of("cpu").and_then(|groups| lowest_quota(&groups)).map_or(cores, |quota| cores.min(quota))
}

fn lowest_quota(groups: &Groups) -> Option<usize> {
    groups.folders.iter().filter_map(|folder| quota(folder, groups.is_v1)).min()
}

/// The whole cores of one group's quota, at least one; `None` where it has none.
fn quota(folder: &Path, is_v1: bool) -> Option<usize> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let (quota_us, period_us): (u64, u64) = if is_v1 {
        // A group without a quota says -1, which is no such number.
        (read("cpu.cfs_quota_us")?.trim().parse().ok()?, read("cpu.cfs_period_us")?.trim().parse().ok()?)
    } else {
        let both = read("cpu.max")?;
        let (quota, period) = both.trim().split_once(' ')?;
        (quota.parse().ok()?, period.parse().ok()?)
    };
    usize::try_from(quota_us.checked_div(period_us)?).ok().map(|cores| cores.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quota files from the own group outwards, in a folder of the test's own.
    fn lowest(is_v1: bool, groups: &[&str]) -> Option<usize> {
        let root = tempfile::tempdir().unwrap();
        let mut folders = vec![root.path().to_path_buf()];
        for number in 1..groups.len() {
            let inner = folders[0].join(number.to_string());
            fs::create_dir(&inner).unwrap();
            folders.insert(0, inner);
        }
        for (folder, quota) in folders.iter().zip(groups) {
            let write = |file: &str, text: &str| fs::write(folder.join(file), format!("{text}\n")).unwrap();
            match quota.split_once(' ') {
                Some((quota, period)) if is_v1 => {
                    write("cpu.cfs_quota_us", quota);
                    write("cpu.cfs_period_us", period);
                }
                Some(_) => write("cpu.max", quota),
                None => {}
            }
        }
        lowest_quota(&Groups { folders, is_v1 })
    }

    #[test]
    fn the_lowest_quota_among_a_group_and_those_around_it_counts() {
        for (is_v1, none) in [(false, "max 100000"), (true, "-1 100000")] {
            assert_eq!(lowest(is_v1, &["200000 100000", none]), Some(2));
            assert_eq!(lowest(is_v1, &[none, "100000 100000", "400000 100000"]), Some(1));
            assert_eq!(lowest(is_v1, &[none, none]), None);
            // The group at the root has no such file.
            assert_eq!(lowest(is_v1, &["300000 100000", ""]), Some(3));
        }
    }

    #[test]
    fn a_part_of_a_core_counts_only_where_there_is_no_whole_one() {
        assert_eq!(lowest(false, &["10000 100000"]), Some(1));
        assert_eq!(lowest(false, &["150000 100000"]), Some(1));
        assert_eq!(lowest(true, &["250000 100000"]), Some(2));
        assert_eq!(lowest(true, &["1000 0"]), None);
    }
}
