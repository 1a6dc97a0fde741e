//! The two bounds on memory and how near a reading is to them. Pure.

use serde::Serialize;

use super::memory::Reading;
use crate::model::bundle::LoadedBytes;

/// Part of the container's limit that unreclaimable memory may take: 400 of 512 MB. The rest is for
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
    held_bytes: u64,
    limit_bytes: u64,
}

impl Limits {
    fn bounds(&self, reading: &Reading) -> [Option<Bound>; 2] {
        let resident = self.resident_bytes.map(|limit_bytes| Bound { held_bytes: reading.resident_bytes, limit_bytes });
        let container = unreclaimable_limit_bytes(reading)
            .map(|limit_bytes| Bound { held_bytes: reading.unreclaimable_bytes, limit_bytes });
        [resident, container]
    }

    /// The greater of both shares of their bounds; 0 without bounds.
    #[must_use]
    pub fn used_share(&self, reading: &Reading) -> f64 {
        self.bounds(reading)
            .into_iter()
            .flatten()
            .map(|bound| bound.held_bytes as f64 / bound.limit_bytes.max(1) as f64)
            .fold(0.0, f64::max)
    }

    /// The level of the bound that is nearer.
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
        let added = [unreclaimable + need.mapped_bytes, unreclaimable];
        let shares = match room {
            Room::ForOneOfTwo => [PRESSURE_SHARE, PRESSURE_SHARE],
            Room::BesideHeavy => [1.0, 1.0],
            Room::Alone => [1.0, ALONE_SHARE],
        };
        self.bounds(reading).into_iter().zip(added).zip(shares).all(|((bound, added), share)| {
            bound.is_none_or(|bound| (bound.held_bytes + added) as f64 <= bound.limit_bytes as f64 * share)
        })
    }

    /// What is left of the container's limit beside what cannot be taken back and all mapped
    /// weights; `None` where they do not find room. Below that, each run would wait for the disk.
    #[must_use]
    pub fn left_beside_pages(&self, reading: &Reading, need: &LoadedBytes, sessions: usize) -> Option<u64> {
        let all = reading.unreclaimable_bytes + need.unreclaimable_bytes(sessions) + need.mapped_bytes;
        reading.container_limit_bytes.unwrap_or(u64::MAX).checked_sub(all)
    }

    /// Bytes that may still be allocated before a bound is reached; `u64::MAX` without bounds.
    #[must_use]
    pub fn free_bytes(&self, reading: &Reading) -> u64 {
        self.bounds(reading)
            .into_iter()
            .flatten()
            .map(|bound| bound.limit_bytes.saturating_sub(bound.held_bytes))
            .min()
            .unwrap_or(u64::MAX)
    }
}

/// Bytes above the container's bound that one more text may take.
#[must_use]
pub fn spare_bytes(reading: &Reading) -> u64 {
    let spare = reading.container_limit_bytes.map_or(0.0, |limit| limit as f64 * (SPARE_SHARE - CONTAINER_SHARE));
    spare as u64
}

/// The bound on unreclaimable memory that follows from the container's limit.
#[must_use]
pub fn unreclaimable_limit_bytes(reading: &Reading) -> Option<u64> {
    reading.container_limit_bytes.map(|limit| (limit as f64 * CONTAINER_SHARE) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn reading(resident_mb: u64, unreclaimable_mb: u64, container_mb: Option<u64>) -> Reading {
        Reading {
            resident_bytes: resident_mb * MB,
            unreclaimable_bytes: unreclaimable_mb * MB,
            container_limit_bytes: container_mb.map(|mb| mb * MB),
            ..Reading::default()
        }
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
}
