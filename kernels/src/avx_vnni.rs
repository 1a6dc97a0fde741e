//! The product with AVX-VNNI: the dot products of AVX512-VNNI in 256 bits, for processors without AVX-512.

use std::arch::x86_64::*;

use super::layer::Layer;
use super::product::{Ahead, Columns, Kernel, Panel, ROWS, Tile, multiply_tiles, quantize_rows};
use super::{GROUP, PANEL, STRIP};

/// Columns of a register.
const LANES: usize = 8;

pub(super) struct AvxVnni;

impl Kernel for AvxVnni {
    type Code = u8;

    #[target_feature(enable = "avx2,fma")]
    unsafe fn quantize(layer: &Layer<'_>, x: &[f32], codes: &mut [u8], row_scales: &mut [f32]) {
        quantize_rows(layer, x, codes, row_scales);
    }

    #[target_feature(enable = "avx2,fma,avxvnni")]
    unsafe fn multiply(panel: &Panel<'_>, codes: &[u8], row_scales: &[f32], out: Columns) {
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

/// `C` registers of 8 columns at a time.
///
/// # Safety
/// `codes` holds `R` rows of `panel.depth` codes, and `panel.weights` 64 weights for each of `panel.depth`.
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn tile<const R: usize, const C: usize>(panel: &Panel<'_>, codes: &[u8], ahead: Ahead, tile: &mut Tile) {
    debug_assert!(codes.len() == R * panel.depth && panel.weights.len() == PANEL * panel.depth);
    let (codes, groups) = (codes.as_ptr(), panel.depth / GROUP);
    let cuts = PANEL / (LANES * C);
    for cut in 0..cuts {
        let mut sums = [[_mm256_setzero_si256(); C]; R];
        for group in 0..groups {
            for line in (cut..ahead.lines).step_by(cuts) {
                _mm_prefetch::<_MM_HINT_T1>(ahead.line(line * groups + group));
            }
            let mut parts = [_mm256_setzero_si256(); C];
            for part in 0..C {
                let column = cut * LANES * C + part * LANES;
                let strip = column / STRIP * STRIP * panel.depth;
                // SAFETY: a strip holds 64 bytes for each group, 4 for each column.
                parts[part] = unsafe {
                    let weights = panel.weights.as_ptr().add(strip + group * STRIP * GROUP + column % STRIP * GROUP);
                    _mm256_loadu_si256(weights.cast())
                };
            }
            for row in 0..R {
                // SAFETY: each row holds `depth` codes, a multiple of 4; the read needs no alignment.
                let four = unsafe { codes.add(row * panel.depth + group * GROUP).cast::<i32>().read_unaligned() };
                let four = _mm256_set1_epi32(four);
                for part in 0..C {
                    sums[row][part] = _mm256_dpbusd_avx_epi32(sums[row][part], four, parts[part]);
                }
            }
        }
        for row in 0..R {
            for part in 0..C {
                let column = cut * LANES * C + part * LANES;
                // SAFETY: a tile's row holds 64 sums, 8 for each register.
                unsafe { _mm256_storeu_si256(tile[row].as_mut_ptr().add(column).cast(), sums[row][part]) };
            }
        }
    }
}
