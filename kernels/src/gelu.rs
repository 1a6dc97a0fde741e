//! x * Phi(x) with the bits of ONNX Runtime's CPU BiasGelu on x86-64 with FMA3 (AVX2 and AVX-512 alike).
//!
//! erf is the well-known approximation in two parts: below 0.921875 an odd polynomial, above it 1 - exp(polynomial).
//! Multiply-adds are fused where ONNX Runtime's kernel fuses them and nowhere else, by instruction or by libm, so the
//! bits are the same on every processor.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

use super::float::ROUNDER;

/// Values that are computed side by side: several chains of multiply-adds for AVX2 and for AVX-512.
pub const LANES: usize = 32;

/// From here on erf is computed as 1 - exp(..).
const SPLIT: f32 = 0.921875;
/// From here on erf is 1 in every bit.
const LARGEST: f32 = 3.925;
/// -ln 2 in two parts.
const LN_2: [f32; 2] = [-6.931_457_5e-1, -1.428_606_8e-6];
/// Coefficients in the square, highest power first; the result is multiplied by the value and the value added.
const SMALL: [f32; 6] =
    [-5.991_049_7e-4, 4.993_396e-3, -2.676_673_4e-2, 1.128_180_25e-1, -3.761_248_6e-1, 1.283_791_5e-1];
/// Coefficients in the value; the result is multiplied by the value and the value added.
const LARGE: [f32; 7] =
    [1.729_489_3e-5, -3.832_086_8e-4, 3.883_934_4e-3, -2.425_456e-2, 1.067_778_5e-1, 6.348_467e-1, 1.287_175_1e-1];
/// Coefficients of exp on [-ln 2 / 2, ln 2 / 2].
const EXP: [f32; 7] = [1.383_198_1e-3, 8.375_5e-3, 4.166_895e-2, 1.666_644_7e-1, 4.999_998_5e-1, 1.0, 1.0];

/// GELU of each value, in place; the bias is already added. Each step is done for all values before the next one.
#[inline(always)]
pub fn gelu(x: &mut [f32; LANES]) {
    // |x / sqrt 2|; a NaN becomes a number here and comes back with the last product.
    let mut size = [0f32; LANES];
    for lane in 0..LANES {
        let value = (x[lane] * FRAC_1_SQRT_2).abs();
        size[lane] = if value < LARGEST { value } else { LARGEST };
    }
    let mut large = [LARGE[0]; LANES];
    for factor in &LARGE[1..] {
        for lane in 0..LANES {
            large[lane] = large[lane].mul_add(size[lane], *factor);
        }
    }
    // exp(-large) = 2^whole * exp(rest)
    let mut whole = [0f32; LANES];
    let mut rest = [0f32; LANES];
    for lane in 0..LANES {
        let exponent = -large[lane].mul_add(size[lane], size[lane]);
        whole[lane] = exponent.mul_add(LOG2_E, ROUNDER);
        let power = whole[lane] - ROUNDER;
        rest[lane] = power.mul_add(LN_2[1], power.mul_add(LN_2[0], exponent));
    }
    let mut exp = [EXP[0]; LANES];
    for factor in &EXP[1..] {
        for lane in 0..LANES {
            exp[lane] = exp[lane].mul_add(rest[lane], *factor);
        }
    }
    let mut small = [SMALL[0]; LANES];
    for factor in &SMALL[1..] {
        for lane in 0..LANES {
            small[lane] = small[lane].mul_add(size[lane] * size[lane], *factor);
        }
    }
    for lane in 0..LANES {
        // Times 2^whole: added to the exponent.
        let large = 1.0 - f32::from_bits(exp[lane].to_bits().wrapping_add(whole[lane].to_bits() << 23));
        let small = small[lane].mul_add(size[lane], size[lane]);
        let erf = if size[lane] >= SPLIT { large } else { small };
        let erf = f32::from_bits(erf.to_bits() | x[lane].to_bits() & 1 << 31);
        x[lane] = x[lane] * 0.5 * (erf + 1.0);
    }
}
