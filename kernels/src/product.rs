//! What the integer products of all instruction sets share: codes, panels, tiles, and what is fetched ahead.

use super::float::{finish, quantize_row};
use super::layer::Layer;
use super::{GROUP, PANEL, STRIP};

/// Rows of a tile at most: 24 sums of 16 columns and the weights fill the registers of AVX-512.
pub(super) const ROWS: usize = 6;

/// Cache lines of a panel for each group of inputs: one a strip.
const LINES: usize = PANEL / STRIP;
const LINE_BYTES: usize = STRIP * GROUP;

/// The sums of one tile, row by row.
pub(super) type Tile = [[i32; PANEL]; ROWS];

/// A quantized input as a product reads it.
pub trait Code: Copy + Default + Send + Sync + 'static {
    /// The code of a value from 0 to 255.
    fn from_byte(value: i32) -> Self;
}

impl Code for u8 {
    #[inline(always)]
    fn from_byte(value: i32) -> Self {
        value as Self
    }
}

impl Code for i16 {
    #[inline(always)]
    fn from_byte(value: i32) -> Self {
        value as Self
    }
}

/// One panel of a layer: the constants of 64 columns.
pub(super) struct Panel<'a> {
    pub depth: usize,
    /// `[4][depth / 4][16][4]`, so `depth * 64` weights.
    pub weights: &'a [i8],
    /// The weights of the panel behind, which tiles fetch ahead; empty behind the last one.
    pub next: &'a [i8],
    pub offsets: &'a [i32; PANEL],
    pub scales: &'a [f32; PANEL],
    pub bias: &'a [f32; PANEL],
    pub has_gelu: bool,
}

/// Where a panel's results go: 64 floats of each row, `stride` floats apart.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub first: *mut f32,
    pub stride: usize,
}

/// One instruction set's functions.
pub(super) trait Kernel {
    /// The codes that its product reads.
    type Code: Code;

    /// Quantizes rows of the layer's input.
    ///
    /// # Safety
    /// The processor has the set's instructions.
    unsafe fn quantize(layer: &Layer<'_>, x: &[f32], codes: &mut [Self::Code], row_scales: &mut [f32]);

    /// Multiplies rows of codes, as many as there are scales, by one panel.
    ///
    /// # Safety
    /// The processor has the set's instructions; `codes` holds `depth` codes for each scale and `panel.weights`
    /// 64 weights for each input; `out` is valid for writes of all rows, and nobody else uses these columns.
    unsafe fn multiply(panel: &Panel<'_>, codes: &[Self::Code], row_scales: &[f32], out: Columns);
}

/// What a tile fetches into the second-level cache while it multiplies: a lone text is bound by memory, and otherwise
/// the first tile of each panel would wait for all of it.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    from: *const i8,
    /// Cache lines for each group of inputs.
    pub lines: usize,
}

impl Ahead {
    /// The share of tile `index` of `tiles`; together they fetch the whole panel.
    #[inline(always)]
    fn share(panel: &Panel<'_>, index: usize, tiles: usize) -> Self {
        let lines = LINES.div_ceil(tiles);
        let first = index * lines;
        if panel.next.is_empty() || first >= LINES {
            return Self { from: panel.next.as_ptr(), lines: 0 };
        }
        let from = panel.next.as_ptr().wrapping_add(first * panel.depth / GROUP * LINE_BYTES);
        Self { from, lines: lines.min(LINES - first) }
    }

    /// The address of a cache line; only ever prefetched, which cannot fault.
    #[inline(always)]
    pub fn line(&self, index: usize) -> *const i8 {
        self.from.wrapping_add(index * LINE_BYTES)
    }
}

#[inline(always)]
pub(super) fn quantize_rows<C: Code>(layer: &Layer<'_>, x: &[f32], codes: &mut [C], row_scales: &mut [f32]) {
    let depth = layer.depth();
    for (index, scale) in row_scales.iter_mut().enumerate() {
        let row = index * depth..(index + 1) * depth;
        *scale = quantize_row(&x[row.clone()], layer.evenness(), layer.scheme(), &mut codes[row]);
    }
}

/// Cuts the rows into tiles of about the same size; `product` fills a tile with the sums of so many rows of codes.
///
/// # Safety
/// As [`Kernel::multiply`].
#[inline(always)]
pub(super) unsafe fn multiply_tiles<C: Code>(
    panel: &Panel<'_>,
    codes: &[C],
    row_scales: &[f32],
    out: Columns,
    product: impl Fn(usize, &[C], Ahead, &mut Tile),
) {
    let rows = row_scales.len();
    let tiles = rows.div_ceil(ROWS);
    let mut sums = [[0; PANEL]; ROWS];
    for index in 0..tiles {
        let (begin, end) = (index * rows / tiles, (index + 1) * rows / tiles);
        let of_tile = &codes[begin * panel.depth..end * panel.depth];
        product(end - begin, of_tile, Ahead::share(panel, index, tiles), &mut sums);
        for row in begin..end {
            // SAFETY: the caller gave `out` for these rows' 64 floats; an array of floats needs no more alignment.
            let out = unsafe { &mut *out.first.add(row * out.stride).cast::<[f32; PANEL]>() };
            finish(&sums[row - begin], row_scales[row], panel, out);
        }
    }
}
