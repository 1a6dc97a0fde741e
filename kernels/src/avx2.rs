//! The product with AVX2, in 16 bits: its 8-bit instruction adds pairs of products in 16 bits, which overflows.

use std::arch::x86_64::*;

use super::layer::Layer;
use super::product::{Ahead, Columns, Kernel, Panel, ROWS, Tile, multiply_tiles, quantize_rows};
use super::{GROUP, PANEL, STRIP};

/// Columns of a register: each has two partial sums.
const LANES: usize = 4;

pub(super) struct Avx2;

impl Kernel for Avx2 {
    type Code = i16;

    #[target_feature(enable = "avx2,fma")]
    unsafe fn quantize(layer: &Layer<'_>, x: &[f32], codes: &mut [i16], row_scales: &mut [f32]) {
        quantize_rows(layer, x, codes, row_scales);
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply(panel: &Panel<'_>, codes: &[i16], row_scales: &[f32], out: Columns) {
        // SAFETY: the caller's promises are the same; a tile has as many rows as its codes. Sums and weights of so
        // many rows and registers are the most that 16 registers hold.
        unsafe {
            multiply_tiles(panel, codes, row_scales, out, |rows, codes, ahead, sums| match rows {
                1 => tile::<1, 4>(panel, codes, ahead, sums),
                2 => tile::<2, 4>(panel, codes, ahead, sums),
                3 => tile::<3, 4>(panel, codes, ahead, sums),
                4 => tile::<4, 2>(panel, codes, ahead, sums),
                5 => tile::<5, 2>(panel, codes, ahead, sums),
                _ => tile::<ROWS, 2>(panel, codes, ahead, sums),
            });
        }
    }
}

/// `C` registers of 4 columns at a time.
///
/// # Safety
/// `codes` holds `R` rows of `panel.depth` codes, and `panel.weights` 64 weights for each of `panel.depth`.
#[target_feature(enable = "avx2")]
unsafe fn tile<const R: usize, const C: usize>(panel: &Panel<'_>, codes: &[i16], ahead: Ahead, tile: &mut Tile) {
    debug_assert!(codes.len() == R * panel.depth && panel.weights.len() == PANEL * panel.depth);
    let (codes, groups) = (codes.as_ptr(), panel.depth / GROUP);
    let cuts = PANEL / (LANES * C);
    for cut in 0..cuts {
        let column = cut * LANES * C;
        let mut sums = [[_mm256_setzero_si256(); C]; R];
        for group in 0..groups {
            for line in (cut..ahead.lines).step_by(cuts) {
                _mm_prefetch::<_MM_HINT_T1>(ahead.line(line * groups + group));
            }
            let strip = column / STRIP * STRIP * panel.depth;
            let mut parts = [_mm256_setzero_si256(); C];
            for part in 0..C {
                // SAFETY: a strip holds 64 bytes for each group, 4 for each column; a cut lies within one strip.
                parts[part] = unsafe {
                    let offset = strip + group * STRIP * GROUP + (column % STRIP + part * LANES) * GROUP;
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.weights.as_ptr().add(offset).cast()))
                };
            }
            for row in 0..R {
                // SAFETY: each row holds `depth` codes, a multiple of 4; the read needs no alignment.
                let four = unsafe { codes.add(row * panel.depth + group * GROUP).cast::<i64>().read_unaligned() };
                let four = _mm256_set1_epi64x(four);
                for part in 0..C {
                    sums[row][part] = _mm256_add_epi32(sums[row][part], _mm256_madd_epi16(parts[part], four));
                }
            }
        }
        for row in 0..R {
            for part in (0..C).step_by(2) {
                let pairs = _mm256_hadd_epi32(sums[row][part], sums[row][part + 1]);
                let in_order = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
                // SAFETY: a tile's row holds 64 sums, 8 for each pair of registers.
                unsafe { _mm256_storeu_si256(tile[row].as_mut_ptr().add(column + part * LANES).cast(), in_order) };
            }
        }
    }
}
