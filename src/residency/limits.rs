//! The bounds on memory and how near a reading is to them. Pure.

use serde::Serialize;

use super::memory::{LimitFrom, MemoryLimit, Reading};
use crate::model::bundle::LoadedBytes;

/// Part of a container's limit that unreclaimable memory may take: 400 of 512 MB. The rest is for
/// the pages of mapped weights and for what the kernel needs to move them.
const CONTAINER_SHARE: f64 = 0.78;

/// Part of a bound from which memory is given back where that costs little.
const PRESSURE_SHARE: f64 = 0.85;

/// Multiple of the container's bound up to which the light model may load where the heavy one is not
/// in memory: the pages that the bound leaves room for are not there then.
const ALONE_SHARE: f64 = 1.06;

/// Part of a bound below which an evicted model may return.
const RETURN_SHARE: f64 = 0.70;

/// Part of the container's limit up to which one more text of the light model may go: nobody could
/// take it over, and a moment above the bound is no danger yet.
const SPARE_SHARE: f64 = 0.90;

/// What counts of a machine's memory where no group has a lower limit.
const MACHINE_COUNTED_BYTES: u64 = 512 << 20;

/// How near memory is to its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    Normal,
    /// Give back what is cheap to give back.
    Pressure,
    /// The heavy model has to go.
    Evict,
}

impl Level {
    /// The level's name on the wire and in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Pressure => "pressure",
            Self::Evict => "evict",
        }
    }
}

/// Who wants to load, and so how near to the bounds it may bring memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A model that another one can answer for: to the level of pressure.
    ForOneOfTwo,
    /// The light model beside the heavy one: to the bounds.
    BesideHeavy,
    /// The light model alone, without which nobody answers: a little over the container's bound.
    Alone,
}

/// The bounds that are in force. `None` where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// `MODEL_MEMORY_LIMIT`: bounds the resident figure.
    pub resident_bytes: Option<u64>,
}

/// One bound with what counts towards it now.
#[derive(Debug, Clone, Copy)]
struct Bound {
    /// Less than nothing where a large machine has plenty.
    held_bytes: i64,
    limit_bytes: u64,
}

impl Bound {
    fn share(&self) -> f64 {
        self.held_bytes as f64 / self.limit_bytes.max(1) as f64
    }

    fn free_bytes(&self) -> u64 {
        u64::try_from(signed(self.limit_bytes).saturating_sub(self.held_bytes)).unwrap_or(0)
    }

    fn has_room_for(&self, added_bytes: u64, share: f64) -> bool {
        self.held_bytes.saturating_add(signed(added_bytes)) as f64 <= self.limit_bytes as f64 * share
    }
}

/// What of a limit counts. Of a machine that is its last 512 MB: what others hold of the rest is no
/// danger to anybody, and how much of the last part is left decides as it does in a small container.
fn counted_bytes(limit: &MemoryLimit) -> u64 {
    match limit.from {
        LimitFrom::Cgroup | LimitFrom::MemoryHigh => limit.limit_bytes,
        LimitFrom::Machine => limit.limit_bytes.min(MACHINE_COUNTED_BYTES),
    }
}

/// The bound on unreclaimable memory that follows from a limit.
fn bound(limit: &MemoryLimit) -> Bound {
    let counted_bytes = counted_bytes(limit);
    let uncounted_bytes = limit.limit_bytes - counted_bytes;
    Bound {
        held_bytes: signed(limit.unreclaimable_bytes) - signed(uncounted_bytes),
        limit_bytes: (counted_bytes as f64 * CONTAINER_SHARE) as u64,
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Limits {
    fn resident(&self, reading: &Reading) -> Option<Bound> {
        let held_bytes = signed(reading.resident_bytes);
        self.resident_bytes.map(|limit_bytes| Bound { held_bytes, limit_bytes })
    }

    fn bounds(&self, reading: &Reading) -> impl Iterator<Item = Bound> {
        self.resident(reading).into_iter().chain(reading.limits.iter().map(bound))
    }

    /// The greatest of the shares of the bounds; 0 without bounds.
    #[must_use]
    pub fn used_share(&self, reading: &Reading) -> f64 {
        self.bounds(reading).map(|bound| bound.share()).fold(0.0, f64::max)
    }

    /// The level of the bound that is nearest.
    #[must_use]
    pub fn level(&self, reading: &Reading) -> Level {
        match self.used_share(reading) {
            share if share >= 1.0 => Level::Evict,
            share if share >= PRESSURE_SHARE => Level::Pressure,
            _ => Level::Normal,
        }
    }

    /// Whether there is room enough for an evicted model to be tried again.
    #[must_use]
    pub fn allows_return(&self, reading: &Reading) -> bool {
        self.used_share(reading) < RETURN_SHARE
    }

    /// Whether `sessions` sessions that need `need` fit beside what is held now.
    #[must_use]
    pub fn fits(&self, reading: &Reading, need: &LoadedBytes, sessions: usize, room: Room) -> bool {
        let unreclaimable = need.unreclaimable_bytes(sessions);
        let (of_resident, of_others) = match room {
            Room::ForOneOfTwo => (PRESSURE_SHARE, PRESSURE_SHARE),
            Room::BesideHeavy => (1.0, 1.0),
            Room::Alone => (1.0, ALONE_SHARE),
        };
        let resident = self.resident(reading);
        resident.is_none_or(|bound| bound.has_room_for(unreclaimable + need.mapped_bytes, of_resident))
            && reading.limits.iter().all(|limit| bound(limit).has_room_for(unreclaimable, of_others))
    }

    /// What is left of the tightest limit beside what cannot be taken back and all mapped weights;
    /// `None` where they do not find room. Below that, each run would wait for the disk.
    #[must_use]
    pub fn left_beside_pages(&self, reading: &Reading, need: &LoadedBytes, sessions: usize) -> Option<u64> {
        let added = need.unreclaimable_bytes(sessions) + need.mapped_bytes;
        let left = |limit: &MemoryLimit| limit.limit_bytes.checked_sub(limit.unreclaimable_bytes + added);
        reading.limits.iter().map(left).try_fold(u64::MAX, |least, left| Some(least.min(left?)))
    }

    /// Bytes that may still be allocated before a bound is reached; `u64::MAX` without bounds.
    #[must_use]
    pub fn free_bytes(&self, reading: &Reading) -> u64 {
        self.bounds(reading).map(|bound| bound.free_bytes()).min().unwrap_or(u64::MAX)
    }
}

/// Bytes above the bounds of container and machine that one more text may take.
#[must_use]
pub fn spare_bytes(reading: &Reading) -> u64 {
    let spare = |limit| (counted_bytes(limit) as f64 * (SPARE_SHARE - CONTAINER_SHARE)) as u64;
    reading.limits.iter().map(spare).min().unwrap_or(0)
}

/// The limit that is nearest, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nearest {
    /// The limit itself.
    pub limit: MemoryLimit,
    /// Unreclaimable memory of the container; that of this process where the machine is the limit.
    pub unreclaimable_bytes: u64,
    /// Where that evicts.
    pub unreclaimable_limit_bytes: u64,
}

/// The limit whose share is used most; `None` where none can be read.
#[must_use]
pub fn nearest(reading: &Reading) -> Option<Nearest> {
    let limit = *reading.limits.iter().max_by(|one, other| bound(one).share().total_cmp(&bound(other).share()))?;
    let (unreclaimable_bytes, unreclaimable_limit_bytes) = match limit.from {
        LimitFrom::Cgroup | LimitFrom::MemoryHigh => (limit.unreclaimable_bytes, bound(&limit).limit_bytes),
        LimitFrom::Machine => {
            (reading.unreclaimable_bytes, reading.unreclaimable_bytes.saturating_add(bound(&limit).free_bytes()))
        }
    };
    Some(Nearest { limit, unreclaimable_bytes, unreclaimable_limit_bytes })
}

/// Unreclaimable bytes that are free under the bounds of container and machine; `u64::MAX` where
/// there are none.
#[must_use]
pub fn unreclaimable_free_bytes(reading: &Reading) -> u64 {
    reading.limits.iter().map(|limit| bound(limit).free_bytes()).min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn reading(resident_mb: u64, unreclaimable_mb: u64, container_mb: Option<u64>) -> Reading {
        Reading {
            resident_bytes: resident_mb * MB,
            unreclaimable_bytes: unreclaimable_mb * MB,
            limits: container_mb.map(|mb| limit(LimitFrom::Cgroup, mb, unreclaimable_mb)).into_iter().collect(),
            ..Reading::default()
        }
    }

    fn limit(from: LimitFrom, limit_mb: u64, unreclaimable_mb: u64) -> MemoryLimit {
        let [limit_bytes, unreclaimable_bytes] = [limit_mb * MB, unreclaimable_mb * MB];
        MemoryLimit { from, limit_bytes, unreclaimable_bytes, usage_bytes: unreclaimable_bytes }
    }

    /// A process of 50 MB, and these limits with what is held under each, in MB.
    fn under(limits: &[(LimitFrom, u64, u64)]) -> Reading {
        let limits = limits.iter().map(|(from, limit_mb, held_mb)| limit(*from, *limit_mb, *held_mb)).collect();
        Reading { unreclaimable_bytes: 50 * MB, limits, ..Reading::default() }
    }

    #[test]
    fn without_bounds_nothing_is_ever_too_much() {
        let limits = Limits::default();
        assert_eq!(limits.level(&reading(100_000, 100_000, None)), Level::Normal);
        assert_eq!(limits.free_bytes(&reading(1, 1, None)), u64::MAX);
    }

    #[test]
    fn a_container_of_512_mb_evicts_at_400_unreclaimable() {
        let limits = Limits::default();
        assert_eq!(limits.level(&reading(0, 338, Some(512))), Level::Normal);
        assert_eq!(limits.level(&reading(0, 340, Some(512))), Level::Pressure);
        assert_eq!(limits.level(&reading(0, 400, Some(512))), Level::Evict);
    }

    #[test]
    fn mapped_pages_are_no_danger_to_the_container_but_count_for_the_resident_bound() {
        let held = reading(450, 40, Some(512));
        assert_eq!(Limits::default().level(&held), Level::Normal);
        assert_eq!(Limits { resident_bytes: Some(400 * MB) }.level(&held), Level::Evict);
    }

    #[test]
    fn a_load_fits_when_it_ends_below_the_level_of_pressure() {
        let need = LoadedBytes { first_session_bytes: 20 * MB, next_session_bytes: 10 * MB, mapped_bytes: 100 * MB };
        let limits = Limits { resident_bytes: Some(200 * MB) };
        assert!(limits.fits(&reading(40, 20, None), &need, 2, Room::ForOneOfTwo));
        assert!(!limits.fits(&reading(41, 20, None), &need, 2, Room::ForOneOfTwo));
        assert!(limits.fits(&reading(41, 20, None), &need, 2, Room::BesideHeavy));
        assert!(Limits::default().fits(&reading(500, 20, Some(80)), &need, 2, Room::ForOneOfTwo));
        assert!(!Limits::default().fits(&reading(500, 20, Some(80)), &need, 4, Room::ForOneOfTwo));
    }

    #[test]
    fn the_light_model_alone_may_go_a_little_over_the_containers_bound_but_not_over_a_resident_one() {
        let need = LoadedBytes { first_session_bytes: 20 * MB, next_session_bytes: 10 * MB, mapped_bytes: 0 };
        // 400 MB of 512 are the bound, 424 is as far as it may go.
        let held = reading(0, 390, Some(512));
        assert!(!Limits::default().fits(&held, &need, 2, Room::BesideHeavy));
        assert!(Limits::default().fits(&held, &need, 2, Room::Alone));
        assert!(!Limits::default().fits(&reading(0, 395, Some(512)), &need, 2, Room::Alone));
        assert!(!Limits { resident_bytes: Some(100 * MB) }.fits(&reading(71, 20, None), &need, 2, Room::Alone));
    }

    #[test]
    fn pages_must_find_room_beside_what_cannot_be_taken_back() {
        let need = LoadedBytes { first_session_bytes: 20 * MB, next_session_bytes: 10 * MB, mapped_bytes: 100 * MB };
        let limits = Limits::default();
        assert!(limits.left_beside_pages(&reading(0, 30, Some(160)), &need, 2).is_some());
        assert!(limits.left_beside_pages(&reading(0, 31, Some(160)), &need, 2).is_none());
        assert!(limits.left_beside_pages(&reading(0, 31, Some(160)), &need, 1).is_some());
        assert!(limits.left_beside_pages(&reading(0, 9999, None), &need, 1).is_some());
    }

    #[test]
    fn the_nearer_bound_counts() {
        let limits = Limits { resident_bytes: Some(100 * MB) };
        let held = reading(60, 50, Some(100));
        assert_eq!(limits.free_bytes(&held), 28 * MB);
        assert!(limits.allows_return(&held));
        assert!(!limits.allows_return(&reading(71, 0, Some(100))));
    }

    #[test]
    fn with_several_limits_the_one_that_is_nearest_counts_and_not_the_lowest() {
        let (own, pod) = ((LimitFrom::Cgroup, 128, 60), (LimitFrom::Cgroup, 256, 200));
        let both = under(&[own, pod]);
        assert_eq!(Limits::default().level(&both), Level::Evict);
        assert_eq!(Limits::default().level(&under(&[own])), Level::Normal);
        assert_eq!(nearest(&both).unwrap().limit.limit_bytes, 256 * MB);
        assert_eq!(nearest(&both).unwrap().unreclaimable_bytes, 200 * MB);
        // The room of each is left, whichever is nearer by its share.
        let roomy = (LimitFrom::Cgroup, 1024, 700);
        assert_eq!(Limits::default().free_bytes(&under(&[own, roomy])), (128.0 * 0.78 * MB as f64) as u64 - 60 * MB);
        let need = LoadedBytes { first_session_bytes: 30 * MB, next_session_bytes: 0, mapped_bytes: 0 };
        assert!(Limits::default().fits(&under(&[roomy]), &need, 1, Room::BesideHeavy));
        assert!(Limits::default().fits(&under(&[own]), &need, 1, Room::BesideHeavy));
        let need = LoadedBytes { first_session_bytes: 50 * MB, ..need };
        assert!(!Limits::default().fits(&under(&[own, roomy]), &need, 1, Room::BesideHeavy));
    }

    #[test]
    fn a_machine_of_512_mb_evicts_where_a_container_of_512_mb_does() {
        for (held_mb, level) in [(338, Level::Normal), (340, Level::Pressure), (400, Level::Evict)] {
            assert_eq!(Limits::default().level(&under(&[(LimitFrom::Machine, 512, held_mb)])), level, "{held_mb}");
        }
        let nearest = nearest(&under(&[(LimitFrom::Machine, 512, 200)])).unwrap();
        assert_eq!((nearest.unreclaimable_bytes / MB, nearest.unreclaimable_limit_bytes / MB), (50, 249));
    }

    #[test]
    fn what_others_hold_of_a_large_machine_matters_only_when_it_runs_out() {
        let held = |mb| under(&[(LimitFrom::Machine, 24_000, mb)]);
        for (held_mb, level) in [(100, Level::Normal), (23_800, Level::Normal), (23_890, Level::Evict)] {
            assert_eq!(Limits::default().level(&held(held_mb)), level, "{held_mb}");
        }
        assert_eq!(Limits::default().free_bytes(&held(2000)) / MB, 21_887);
        let need = LoadedBytes { first_session_bytes: 3000 * MB, next_session_bytes: 0, mapped_bytes: 3000 * MB };
        assert!(Limits::default().fits(&held(2000), &need, 1, Room::ForOneOfTwo));
        assert!(!Limits::default().fits(&held(21_000), &need, 1, Room::ForOneOfTwo));
        assert!(Limits::default().left_beside_pages(&held(19_000), &need, 1).is_none());
    }
}
