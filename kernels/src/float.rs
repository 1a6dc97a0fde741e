//! The float steps, in plain Rust: inlined into functions of each instruction set they become its vectors.
//!
//! Plain loops over indices throughout: an iterator's closure may be compiled without the caller's instructions.

use super::layer::Scheme;
use super::product::{Code, Panel};
use super::{PANEL, gelu};

/// 1.5 * 2^23: a float of less than 2^22 added to it is rounded to a whole number (ties to even), in the low bits.
pub(super) const ROUNDER: f32 = 12_582_912.0;
/// Least quotient of a value and its row's scale that is rounded: all below become the code 0 alike.
const LEAST_QUOTIENT: f32 = -512.0;

/// Quantizes one row, each value times its evenness, and returns the row's scale. A row that holds a value which is
/// not finite gets a scale that is not finite, and so results that are not.
#[inline(always)]
pub(super) fn quantize_row<C: Code>(row: &[f32], evenness: &[f32], scheme: &Scheme, codes: &mut [C]) -> f32 {
    let length = row.len().min(evenness.len()).min(codes.len());
    let (row, evenness, codes) = (&row[..length], &evenness[..length], &mut codes[..length]);
    // As whole numbers in the order of the floats: their maximum may be taken in any order, so it becomes vectors.
    let (mut smallest, mut largest) = (i32::MAX, i32::MIN);
    for index in 0..length {
        let place = ordered((row[index] * evenness[index]).to_bits() as i32);
        smallest = smallest.min(place);
        largest = largest.max(place);
    }
    let [smallest, largest] = [smallest, largest].map(|place| f32::from_bits(ordered(place) as u32));
    let scale = row_scale(smallest, largest, scheme);
    let shift = ROUNDER.to_bits() as i32 - scheme.zero_point;
    for index in 0..length {
        let quotient = row[index] * evenness[index] / scale;
        let quotient = if quotient > LEAST_QUOTIENT { quotient } else { LEAST_QUOTIENT };
        codes[index] = C::from_byte(((quotient + ROUNDER).to_bits() as i32).wrapping_sub(shift).clamp(0, 255));
    }
    scale
}

/// In the order of the bits, a NaN is larger than infinity, or smaller than -infinity when its sign is set.
#[inline(always)]
fn row_scale(smallest: f32, largest: f32, scheme: &Scheme) -> f32 {
    if !smallest.is_finite() || !largest.is_finite() {
        return f32::NAN;
    }
    let mut scale = largest * scheme.step_of_largest;
    let of_smallest = smallest * scheme.step_of_smallest;
    if of_smallest > scale {
        scale = of_smallest;
    }
    if scale < scheme.least { scheme.least } else { scale }
}

/// The bits of a float as a number that is larger when the float is, and back.
#[inline(always)]
fn ordered(bits: i32) -> i32 {
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

/// The results of one row in one panel, from its sums.
#[inline(always)]
pub(super) fn finish(sums: &[i32; PANEL], row_scale: f32, panel: &Panel<'_>, out: &mut [f32; PANEL]) {
    for column in 0..PANEL {
        let sum = sums[column].wrapping_add(panel.offsets[column]) as f32;
        out[column] = sum * panel.scales[column] * row_scale + panel.bias[column];
    }
    if panel.has_gelu {
        for lanes in out.as_chunks_mut().0 {
            gelu::gelu(lanes);
        }
    }
}
