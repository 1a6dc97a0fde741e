//! The product with AVX512-VNNI: one instruction multiplies 4 inputs of 16 columns and adds them up, exactly.

use std::arch::x86_64::*;

use super::layer::Layer;
use super::product::{Ahead, Columns, Kernel, Panel, ROWS, Tile, multiply_tiles, quantize_rows};
use super::{GROUP, PANEL, STRIP};

/// Registers of 16 columns in a panel.
const PARTS: usize = PANEL / STRIP;

pub(super) struct Avx512Vnni;

impl Kernel for Avx512Vnni {
    type Code = u8;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
    unsafe fn quantize(layer: &Layer<'_>, x: &[f32], codes: &mut [u8], row_scales: &mut [f32]) {
        quantize_rows(layer, x, codes, row_scales);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
    unsafe fn multiply(panel: &Panel<'_>, codes: &[u8], row_scales: &[f32], out: Columns) {
        // SAFETY: the caller's promises are the same; a tile has as many rows as its codes.
        unsafe {
            multiply_tiles(panel, codes, row_scales, out, |rows, codes, ahead, sums| match rows {
                1 => tile::<1>(panel, codes, ahead, sums),
                2 => tile::<2>(panel, codes, ahead, sums),
                3 => tile::<3>(panel, codes, ahead, sums),
                4 => tile::<4>(panel, codes, ahead, sums),
                5 => tile::<5>(panel, codes, ahead, sums),
                _ => tile::<ROWS>(panel, codes, ahead, sums),
            });
        }
    }
}

/// # Safety
/// `codes` holds `R` rows of `panel.depth` codes, and `panel.weights` 64 weights for each of `panel.depth`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const R: usize>(panel: &Panel<'_>, codes: &[u8], ahead: Ahead, tile: &mut Tile) {
    debug_assert!(codes.len() == R * panel.depth && panel.weights.len() == PANEL * panel.depth);
    let (codes, weights) = (codes.as_ptr(), panel.weights.as_ptr());
    let mut sums = [[_mm512_setzero_si512(); PARTS]; R];
    for group in 0..panel.depth / GROUP {
        for line in 0..ahead.lines {
            _mm_prefetch::<_MM_HINT_T1>(ahead.line(group * ahead.lines + line));
        }
        let mut parts = [_mm512_setzero_si512(); PARTS];
        for part in 0..PARTS {
            // SAFETY: strip `part` begins at part * depth * 16, and holds 64 bytes for each group.
            parts[part] =
                unsafe { _mm512_loadu_si512(weights.add(part * panel.depth * STRIP + group * STRIP * GROUP).cast()) };
        }
        for row in 0..R {
            // SAFETY: each row holds `depth` codes, a multiple of 4; the read needs no alignment.
            let four = unsafe { codes.add(row * panel.depth + group * GROUP).cast::<i32>().read_unaligned() };
            let four = _mm512_set1_epi32(four);
            for part in 0..PARTS {
                sums[row][part] = _mm512_dpbusd_epi32(sums[row][part], four, parts[part]);
            }
        }
    }
    for row in 0..R {
        for part in 0..PARTS {
            // SAFETY: a tile's row holds 64 sums, 16 for each part.
            unsafe { _mm512_storeu_si512(tile[row].as_mut_ptr().add(part * STRIP).cast(), sums[row][part]) };
        }
    }
}
