//! Logits of texts that were answered before.
//!
//! Sound because a text's logits do not depend on the batch it was in: the same tokens through the
//! same weights give the same bits. Keyed by what the model reads, so two spellings that the
//! tokenizer makes equal share an entry.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::model::{Bundle, Encoding, Role};

/// What one entry costs beside its tokens and logits: hash table slots, pointers, counts.
const ENTRY_BYTES: u64 = 160;

/// Bytes of a usual entry, to size the hash table: 30 tokens and 28 logits.
const USUAL_ENTRY_BYTES: u64 = 400;

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

/// The right to compute an entry that others wait for; dropped without a value, the next one gets it.
pub struct Flight<'cache>(Guard<'cache>);

impl Flight<'_> {
    /// Puts the entry in and wakes who waits for it. An entry that was dropped meanwhile stays out.
    pub fn land(self, logits: Arc<[f32]>) {
        let _dropped_meanwhile = self.0.insert(logits);
    }
}

/// What a look into the cache found.
pub enum Lookup<'cache> {
    /// The logits.
    Hit(Arc<[f32]>),
    /// Nothing, and nobody computes it: the caller does.
    Miss(Option<Flight<'cache>>),
    /// Another request computes it now.
    InFlight,
}

/// Bounded by bytes, shared by both models.
pub struct LogitsCache(Option<Inner>);

impl LogitsCache {
    /// A cache of at most `capacity_bytes`; 0 keeps nothing.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        if capacity_bytes == 0 {
            return Self(None);
        }
        let items = usize::try_from(capacity_bytes / USUAL_ENTRY_BYTES).unwrap_or(usize::MAX).max(32);
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(items)
            .weight_capacity(capacity_bytes)
            .build();
        // Both numbers that the builder asks for are given, so this is always Some.
        Self(options.ok().map(|options| {
            Cache::with_options(options, EntryBytes, DefaultHashBuilder::default(), DefaultLifecycle::default())
        }))
    }

    /// Looks without waiting.
    #[must_use]
    pub fn look(&self, key: &CacheKey) -> Lookup<'_> {
        let Some(cache) = &self.0 else { return Lookup::Miss(None) };
        match cache.get_value_or_guard(key, Some(Duration::ZERO)) {
            GuardResult::Value(logits) => Lookup::Hit(logits),
            GuardResult::Guard(guard) => Lookup::Miss(Some(Flight(guard))),
            GuardResult::Timeout => Lookup::InFlight,
        }
    }

    /// Looks without waiting, neither for others nor making others wait.
    #[must_use]
    pub fn look_alone(&self, key: &CacheKey) -> Lookup<'_> {
        self.0.as_ref().and_then(|cache| cache.get(key)).map_or(Lookup::Miss(None), Lookup::Hit)
    }

    /// Puts in an entry that nobody waits for.
    pub fn put(&self, key: &CacheKey, logits: Arc<[f32]>) {
        if let Some(cache) = &self.0 {
            cache.insert(key.clone(), logits);
        }
    }

    /// Waits for the entry that another request computes; a [`Flight`] when that one gave up.
    ///
    /// # Errors
    /// The right to compute it.
    pub async fn wait(&self, key: &CacheKey) -> Result<Arc<[f32]>, Option<Flight<'_>>> {
        let Some(cache) = &self.0 else { return Err(None) };
        cache.get_value_or_guard_async(key).await.map_err(|guard| Some(Flight(guard)))
    }

    /// Drops every entry.
    pub fn clear(&self) {
        if let Some(cache) = &self.0 {
            cache.clear();
        }
    }

    /// Drops the entries of one role.
    pub fn clear_role(&self, role: Role) {
        if let Some(cache) = &self.0 {
            cache.retain(|key, _| key.role != role);
        }
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, Cache::weight)
    }
}
