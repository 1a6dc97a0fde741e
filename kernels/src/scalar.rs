//! The product in plain Rust, for processors without a kernel of their own and as the tests' reference.

use super::layer::Layer;
use super::product::{Columns, Kernel, Panel, Tile, multiply_tiles, quantize_rows};
use super::{GROUP, STRIP};

pub(super) struct Scalar;

impl Kernel for Scalar {
    type Code = u8;

    unsafe fn quantize(layer: &Layer<'_>, x: &[f32], codes: &mut [u8], row_scales: &mut [f32]) {
        quantize_rows(layer, x, codes, row_scales);
    }

    unsafe fn multiply(panel: &Panel<'_>, codes: &[u8], row_scales: &[f32], out: Columns) {
        // SAFETY: the caller's promises are the same.
        unsafe { multiply_tiles(panel, codes, row_scales, out, |_, codes, _, sums| tile(panel, codes, sums)) }
    }
}

fn tile(panel: &Panel<'_>, codes: &[u8], sums: &mut Tile) {
    for (codes, sums) in codes.chunks_exact(panel.depth).zip(sums) {
        let strips = panel.weights.chunks_exact(panel.depth * STRIP);
        for (sums, strip) in sums.as_chunks_mut::<STRIP>().0.iter_mut().zip(strips) {
            *sums = [0; STRIP];
            let groups = strip.as_chunks::<{ STRIP * GROUP }>().0;
            for (codes, weights) in codes.as_chunks::<GROUP>().0.iter().zip(groups) {
                for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<GROUP>().0) {
                    for (code, weight) in codes.iter().zip(weights) {
                        *sum = sum.wrapping_add(i32::from(*code) * i32::from(*weight));
                    }
                }
            }
        }
    }
}
