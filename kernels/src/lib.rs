//! The int8 linear layer: its float steps once in plain Rust, its integer product once for each instruction set.
//!
//! A layer quantizes each row of its input to bytes with a scale of its own, multiplies the bytes by int8 weights,
//! and turns the sums into floats: offset, column scale, row scale, bias, and GELU where the layer has one. Integer
//! sums are exact and float steps are neither reordered nor fused by the compiler, so a row's results are the same
//! bits on every instruction set, and in any company of other rows.
//!
//! All `unsafe` code of the engine is in this crate: intrinsics, and outputs that threads share by columns. What it
//! shows to others is safe.
#![allow(unsafe_code, reason = "intrinsics read through pointers; threads write to different columns of one output")]
#![allow(clippy::needless_range_loop, reason = "loops over registers and lanes, unrolled and made vectors by index")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
#[cfg(target_arch = "x86_64")]
mod avx_vnni;
mod float;
mod gelu;
mod layer;
mod pack;
mod product;
mod scalar;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

pub use layer::{Constants, Layer, RunError, Scheme, Scratch, ShapeError};
pub use pack::Packing;

/// Columns that are multiplied together; a layer's width is a multiple of it.
pub const PANEL: usize = 64;
/// Columns whose weights lie side by side: 4 inputs of 16 columns are one cache line.
pub const STRIP: usize = 16;
/// Inputs of a column that lie side by side; a layer's depth is a multiple of it.
pub const GROUP: usize = 4;
/// Most inputs: with more, a sum of bytes times int8 weights might not fit into 32 bits.
pub const MOST_INPUTS: usize = 1 << 16;

/// The instructions that a layer is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// Plain Rust: right everywhere, 35 to 50 times slower than VNNI.
    Scalar,
    /// AVX2 and FMA: exact products of 16-bit pairs.
    Avx2,
    /// AVX-VNNI: 8-bit dot products in 256 bits.
    AvxVnni,
    /// AVX512-VNNI: 8-bit dot products in 512 bits.
    Avx512Vnni,
}

impl InstructionSet {
    /// Every set, the slowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512Vnni];

    /// The fastest set of this processor, found out once.
    #[must_use]
    pub fn best() -> Self {
        static BEST: LazyLock<InstructionSet> = LazyLock::new(|| {
            let present = InstructionSet::ALL.into_iter().rev().find(|set| set.is_present());
            present.unwrap_or(InstructionSet::Scalar)
        });
        *BEST
    }

    /// Whether this processor has all instructions that the set's functions are compiled for.
    #[must_use]
    pub fn is_present(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Scalar => true,
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            Self::AvxVnni => Self::Avx2.is_present() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
                    && Self::Avx2.is_present()
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        matches!(self, Self::Scalar)
    }

    /// Whether a layer computed with this set is at least as fast as ONNX Runtime's own nodes.
    #[must_use]
    pub fn is_fast(self) -> bool {
        self != Self::Scalar
    }
}
