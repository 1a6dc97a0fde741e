//! Logits of texts that were answered before.
//!
//! Sound because a text's logits do not depend on the batch it was in: the same tokens through the
//! same weights give the same bits. Keyed by what the model reads, so two spellings that the
//! tokenizer makes equal share an entry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::inference::fairness::ClientId;
use crate::model::{Bundle, Encoding, Role};

/// What one entry costs beside its tokens and logits, measured: hash table slots, also those of texts
/// that were dropped lately, pointers, counts, and what malloc adds.
const ENTRY_BYTES: u64 = 216;

/// Bytes of a usual entry, to size the hash table: 30 tokens and 28 logits.
const USUAL_ENTRY_BYTES: u64 = 450;

/// Locks that the entries are spread over.
const SHARDS: usize = 4;

/// A text as one revision of one model reads it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CacheKey {
    role: Role,
    revision: [u8; 16],
    encoding: Arc<Encoding>,
}

impl CacheKey {
    /// The key of a text for the bundle's weights.
    #[must_use]
    pub fn new(role: Role, bundle: &Bundle, encoding: Encoding) -> Self {
        let mut revision = [0; 16];
        let name = bundle.precision.as_str().bytes().chain(bundle.revision().bytes());
        revision.iter_mut().zip(name).for_each(|(byte, of_name)| *byte = of_name);
        Self { role, revision, encoding: Arc::new(encoding) }
    }

    /// What the model reads.
    #[must_use]
    pub fn encoding(&self) -> &Arc<Encoding> {
        &self.encoding
    }
}

/// Weighs an entry in bytes.
#[derive(Debug, Clone)]
pub struct EntryBytes;

impl Weighter<CacheKey, Arc<[f32]>> for EntryBytes {
    fn weight(&self, key: &CacheKey, logits: &Arc<[f32]>) -> u64 {
        let tokens = key.encoding.input_ids.len() + key.encoding.type_ids.len();
        ENTRY_BYTES + 4 * (tokens + logits.len()) as u64
    }
}

type Inner = Cache<CacheKey, Arc<[f32]>, EntryBytes>;

type Guard<'cache> = PlaceholderGuard<'cache, CacheKey, Arc<[f32]>, EntryBytes, DefaultHashBuilder, Lifecycle>;
type Lifecycle = DefaultLifecycle<CacheKey, Arc<[f32]>>;

/// The right to compute an entry that others of the same client wait for; dropped without a value,
/// the next one gets it.
pub struct Flight<'cache> {
    // First, so that it is gone before the next one gets the right.
    _listed: Listed<'cache>,
    guard: Option<Guard<'cache>>,
}

impl Flight<'_> {
    /// Puts the entry in and wakes who waits for it. An entry that was dropped meanwhile stays out.
    pub fn land(mut self, logits: Arc<[f32]>) {
        let _dropped_meanwhile = self.guard.take().map(|guard| guard.insert(logits));
    }
}

/// Tells whose flight computes a key, until it is dropped.
struct Listed<'cache> {
    cache: &'cache LogitsCache,
    key: CacheKey,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.cache.clients().remove(&self.key);
    }
}

/// What a look into the cache found.
pub enum Lookup<'cache> {
    /// The logits.
    Hit(Arc<[f32]>),
    /// Nothing, and nobody computes it: the caller does.
    Miss(Option<Flight<'cache>>),
    /// Another request of the same client computes it now.
    InFlight,
}

/// Bounded by bytes, shared by both models.
pub struct LogitsCache {
    entries: Option<Inner>,
    /// Whose flight computes what is being computed.
    flights: Mutex<HashMap<CacheKey, ClientId>>,
}

impl LogitsCache {
    /// A cache of at most `capacity_bytes`; 0 keeps nothing.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        if capacity_bytes == 0 {
            return Self { entries: None, flights: Mutex::default() };
        }
        let items = usize::try_from(capacity_bytes / USUAL_ENTRY_BYTES).unwrap_or(usize::MAX).max(32);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(items)
            .weight_capacity(capacity_bytes)
            .build();
        // Both numbers that the builder asks for are given, so this is always Some.
        let entries = options.ok().map(|options| {
            Cache::with_options(options, EntryBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
        });
        Self { entries, flights: Mutex::default() }
    }

    /// Looks without waiting. If another client computes the entry, that is a miss without a flight:
    /// this client's texts must not wait for the turns of the other one's.
    #[must_use]
    pub fn look(&self, key: &CacheKey, client: ClientId) -> Lookup<'_> {
        let Some(cache) = &self.entries else { return Lookup::Miss(None) };
        match cache.get_value_or_guard(key, Some(Duration::ZERO)) {
            GuardResult::Value(logits) => Lookup::Hit(logits),
            GuardResult::Guard(guard) => Lookup::Miss(Some(self.flight(guard, key, client))),
            GuardResult::Timeout if self.clients().get(key) == Some(&client) => Lookup::InFlight,
            GuardResult::Timeout => Lookup::Miss(None),
        }
    }

    fn flight<'cache>(&'cache self, guard: Guard<'cache>, key: &CacheKey, client: ClientId) -> Flight<'cache> {
        self.clients().insert(key.clone(), client);
        Flight { _listed: Listed { cache: self, key: key.clone() }, guard: Some(guard) }
    }

    /// Each change is one step, so a panic elsewhere leaves the list whole.
    fn clients(&self) -> MutexGuard<'_, HashMap<CacheKey, ClientId>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plain lookup; joins and starts no flight.
    #[must_use]
    pub fn look_alone(&self, key: &CacheKey) -> Lookup<'_> {
        self.entries.as_ref().and_then(|cache| cache.get(key)).map_or(Lookup::Miss(None), Lookup::Hit)
    }

    /// Puts in an entry that nobody waits for.
    pub fn put(&self, key: &CacheKey, logits: Arc<[f32]>) {
        if let Some(cache) = &self.entries {
            cache.insert(key.clone(), logits);
        }
    }

    /// Waits for the entry that another request computes; a [`Flight`] when that one gave up.
    ///
    /// # Errors
    /// The right to compute it.
    pub async fn wait(&self, key: &CacheKey, client: ClientId) -> Result<Arc<[f32]>, Option<Flight<'_>>> {
        let Some(cache) = &self.entries else { return Err(None) };
        cache.get_value_or_guard_async(key).await.map_err(|guard| Some(self.flight(guard, key, client)))
    }

    /// Drops every entry. Those being computed still reach who waits for them, and stay out. The tables
    /// stay as large as they have grown: measured, 29 % of the capacity where texts had 8 tokens, 14 % where
    /// they had 200.
    pub fn clear(&self) {
        if let Some(cache) = &self.entries {
            cache.clear();
        }
    }

    /// Drops the entries of one role.
    pub fn clear_role(&self, role: Role) {
        if let Some(cache) = &self.entries {
            cache.retain(|key, _| key.role != role);
        }
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.as_ref().map_or(0, Cache::weight)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use futures_util::future::select_all;

    use super::*;

    /// The key of a text of 30 tokens that begins with `number`.
    fn key(number: u32) -> CacheKey {
        let mut input_ids = vec![7; 30];
        input_ids[0] = number;
        let encoding = Encoding { input_ids: input_ids.into(), type_ids: Box::default() };
        CacheKey { role: Role::Light, revision: [0; 16], encoding: Arc::new(encoding) }
    }

    fn mine() -> ClientId {
        ClientId::of(&"mine")
    }

    fn logits(number: u32) -> Arc<[f32]> {
        vec![number as f32; 28].into()
    }

    fn flight<'cache>(cache: &'cache LogitsCache, key: &CacheKey) -> Flight<'cache> {
        match cache.look(key, mine()) {
            Lookup::Miss(Some(flight)) => flight,
            Lookup::Miss(None) | Lookup::Hit(_) | Lookup::InFlight => panic!("somebody else has the right"),
        }
    }

    fn hit(cache: &LogitsCache, key: &CacheKey) -> Option<Arc<[f32]>> {
        match cache.look(key, mine()) {
            Lookup::Hit(logits) => Some(logits),
            Lookup::Miss(_) | Lookup::InFlight => None,
        }
    }

    /// A cache that holds the logits of one text.
    pub(crate) fn of_one_text() -> LogitsCache {
        let cache = LogitsCache::new(1 << 20);
        flight(&cache, &key(1)).land(logits(1));
        cache
    }

    /// Polls once: afterwards who waits is known to the cache.
    async fn begins_to_wait<F: Future>(mut waiting: Pin<&mut F>) {
        let pending = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(pending, "nobody had to wait");
    }

    #[test]
    fn what_was_landed_is_found_and_weighed_until_its_role_goes() {
        let cache = of_one_text();
        assert_eq!(hit(&cache, &key(1)), Some(logits(1)));
        assert_eq!(cache.bytes(), ENTRY_BYTES + 4 * (30 + 28));
        cache.clear_role(Role::Heavy);
        assert_eq!(hit(&cache, &key(1)), Some(logits(1)));
        cache.clear_role(Role::Light);
        assert_eq!((hit(&cache, &key(1)), cache.bytes()), (None, 0));
    }

    #[test]
    fn many_texts_stay_within_the_capacity_and_the_last_ones_are_there() {
        let capacity = 256 << 10;
        let cache = LogitsCache::new(capacity);
        for number in 0..20_000 {
            flight(&cache, &key(number)).land(logits(number));
            assert!(cache.bytes() <= capacity, "{} bytes after {number} texts", cache.bytes());
        }
        assert!(cache.bytes() > capacity / 4 * 3, "only {} bytes of {capacity} are used", cache.bytes());
        assert_eq!(hit(&cache, &key(19_999)), Some(logits(19_999)));
    }

    #[actix_web::test]
    async fn who_waits_gets_what_the_first_one_computed() {
        let cache = LogitsCache::new(1 << 20);
        let key = key(1);
        let first = flight(&cache, &key);
        assert!(matches!(cache.look(&key, mine()), Lookup::InFlight));
        let mut waiting = pin!(cache.wait(&key, mine()));
        begins_to_wait(waiting.as_mut()).await;
        first.land(logits(1));
        assert_eq!(waiting.await.ok(), Some(logits(1)));
    }

    #[test]
    fn another_client_does_not_wait_for_a_run_in_whose_turn_it_has_no_part() {
        let cache = LogitsCache::new(1 << 20);
        let flight = flight(&cache, &key(1));
        assert!(matches!(cache.look(&key(1), ClientId::of(&"other")), Lookup::Miss(None)));
        assert!(matches!(cache.look(&key(1), mine()), Lookup::InFlight));
        flight.land(logits(1));
        assert!(matches!(cache.look(&key(1), ClientId::of(&"other")), Lookup::Hit(_)));
        assert!(cache.clients().is_empty());
    }

    #[actix_web::test]
    async fn one_of_those_who_wait_goes_on_when_the_first_one_gives_up() {
        let cache = LogitsCache::new(1 << 20);
        let key = key(1);
        let first = flight(&cache, &key);
        let (mut second, mut third) = (pin!(cache.wait(&key, mine())), pin!(cache.wait(&key, mine())));
        begins_to_wait(second.as_mut()).await;
        begins_to_wait(third.as_mut()).await;
        drop(first);
        let (Err(Some(right)), _, mut others) = select_all([second, third]).await else { panic!("nobody goes on") };
        begins_to_wait(others[0].as_mut()).await;
        right.land(logits(1));
        assert_eq!(others.remove(0).await.ok(), Some(logits(1)));
    }

    #[actix_web::test]
    async fn who_waits_while_the_cache_is_emptied_still_gets_the_logits() {
        let cache = of_one_text();
        let awaited = key(2);
        let first = flight(&cache, &awaited);
        let mut waiting = pin!(cache.wait(&awaited, mine()));
        begins_to_wait(waiting.as_mut()).await;
        cache.clear();
        assert_eq!((hit(&cache, &key(1)), cache.bytes()), (None, 0));
        first.land(logits(2));
        assert_eq!(waiting.await.ok(), Some(logits(2)));
        assert_eq!(cache.bytes(), 0, "what was begun before stays out");
        flight(&cache, &awaited).land(logits(2));
        assert_eq!(hit(&cache, &awaited), Some(logits(2)));
    }
}
