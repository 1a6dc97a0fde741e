//! A whole layer: its constants, checked once, and a run over any number of rows.

use std::sync::atomic::{AtomicBool, Ordering};

use super::product::{Columns, Kernel, Panel};
use super::scalar::Scalar;
use super::{GROUP, InstructionSet, MOST_INPUTS, PANEL};
#[cfg(target_arch = "x86_64")]
use super::{avx_vnni::AvxVnni, avx2::Avx2, avx512_vnni::Avx512Vnni};

/// Codes of the rows that are multiplied together: they stay in the second-level cache.
const BLOCK_CODES: usize = 128 * 3072;
/// Most rows of a block, whatever their length.
const BLOCK_ROWS: usize = 128;
/// Rows that one thread quantizes at a time.
const SLICE: usize = 16;

/// How a row of activations becomes bytes: its scale is the largest of `largest * step_of_largest`,
/// `smallest * step_of_smallest` and `least`; a code is the value divided by it, rounded, plus `zero_point`.
#[derive(Debug, Clone, Copy)]
pub struct Scheme {
    /// Code of 0, from 0 to 255.
    pub zero_point: i32,
    /// Scale of a row whose largest value is 1.
    pub step_of_largest: f32,
    /// Scale of a row whose smallest value is 1, so a negative number; 0 where negative values do not count.
    pub step_of_smallest: f32,
    /// Least scale of a row.
    pub least: f32,
}

/// The constant tensors of a layer of `width` columns, each of `depth` inputs.
#[derive(Debug, Clone, Copy)]
pub struct Constants<'a> {
    /// `[width / 16][depth / 4][16][4]`.
    pub weights: &'a [i8],
    /// One a column.
    pub scales: &'a [f32],
    /// What is added to each column's sum: -zero_point times the sum of its weights.
    pub offsets: &'a [i32],
    /// One a column.
    pub bias: &'a [f32],
    /// Factors of the inputs, before they are quantized.
    pub evenness: &'a [f32],
}

/// Constants that do not make a layer.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ShapeError {
    /// The number of inputs is not one that kernels read.
    #[error("a packed layer has from {GROUP} to {MOST_INPUTS} inputs, a multiple of {GROUP}, but not {0}")]
    Depth(usize),
    /// The number of columns is not one that kernels write.
    #[error("each output of a packed layer has a multiple of {PANEL} columns, but not {width} in {outputs} outputs")]
    Width {
        /// Columns of all outputs.
        width: usize,
        /// Outputs.
        outputs: usize,
    },
    /// A constant is of another length.
    #[error("a packed layer of {depth} inputs and {width} columns has {expected} {what}, but not {found}")]
    Length {
        /// The constant.
        what: &'static str,
        /// Inputs of the layer.
        depth: usize,
        /// Columns of the layer.
        width: usize,
        /// Elements that the constant must have.
        expected: usize,
        /// Elements that it has.
        found: usize,
    },
}

/// Why a run gave no results.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E> {
    /// Rows or outputs are of another length.
    #[error("the {0} of a packed layer has another number of elements than its rows need")]
    Rows(&'static str),
    /// The processor lacks the instructions.
    #[error("this processor has no {0:?}")]
    NotPresent(InstructionSet),
    /// Some part was not computed: sharing out failed.
    #[error("the parts of a packed layer were not shared out")]
    Share(E),
}

/// A layer whose constants fit together.
#[derive(Debug, Clone, Copy)]
pub struct Layer<'a> {
    constants: Constants<'a>,
    scheme: Scheme,
    has_gelu: bool,
    outputs: usize,
}

/// Room for one block of rows, kept by a thread from run to run: 1.2 MB at most.
#[derive(Debug, Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    words: Vec<i16>,
    row_scales: Vec<f32>,
}

impl<'a> Layer<'a> {
    /// A layer whose columns are cut into so many outputs of the same width.
    ///
    /// # Errors
    /// [`ShapeError`] when a constant is not of the length that the others ask for, or no kernel is made for it.
    pub fn new(constants: Constants<'a>, scheme: Scheme, has_gelu: bool, outputs: usize) -> Result<Self, ShapeError> {
        let (depth, width) = (constants.evenness.len(), constants.scales.len());
        if depth == 0 || depth > MOST_INPUTS || !depth.is_multiple_of(GROUP) {
            return Err(ShapeError::Depth(depth));
        }
        if width == 0 || outputs == 0 || !width.is_multiple_of(outputs * PANEL) {
            return Err(ShapeError::Width { width, outputs });
        }
        let lengths = [
            ("weights", depth.saturating_mul(width), constants.weights.len()),
            ("offsets", width, constants.offsets.len()),
            ("biases", width, constants.bias.len()),
        ];
        match lengths.into_iter().find(|(_, expected, found)| expected != found) {
            Some((what, expected, found)) => Err(ShapeError::Length { what, depth, width, expected, found }),
            None => Ok(Self { constants, scheme, has_gelu, outputs }),
        }
    }

    /// Inputs of each column.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.constants.evenness.len()
    }

    /// Columns of each output.
    #[must_use]
    pub fn output_width(&self) -> usize {
        self.constants.scales.len() / self.outputs
    }

    pub(super) fn evenness(&self) -> &'a [f32] {
        self.constants.evenness
    }

    pub(super) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Computes the outputs, each `[rows, output_width]`, of `x`, `[rows, depth]`.
    ///
    /// `share(count, part)` calls `part` once with each number below `count`, on any threads.
    ///
    /// # Errors
    /// [`RunError`]; outputs are written in part then.
    pub fn run<E>(
        &self,
        set: InstructionSet,
        x: &[f32],
        outputs: &mut [&mut [f32]],
        scratch: &mut Scratch,
        share: impl Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), E>,
    ) -> Result<(), RunError<E>> {
        let (depth, width) = (self.depth(), self.output_width());
        let rows = x.len() / depth;
        if x.len() != rows * depth {
            return Err(RunError::Rows("input"));
        }
        if outputs.len() != self.outputs || outputs.iter().any(|output| output.len() != rows * width) {
            return Err(RunError::Rows("output"));
        }
        if !set.is_present() {
            return Err(RunError::NotPresent(set));
        }
        let outputs: Vec<_> = outputs.iter_mut().map(|output| Shared(output.as_mut_ptr())).collect();
        let rows = Rows { layer: self, x, outputs: &outputs };
        let Scratch { bytes, words, row_scales } = scratch;
        // SAFETY: the set is present, and every output has room for all rows.
        let done = unsafe {
            match set {
                InstructionSet::Scalar => rows.blocks::<Scalar, E>(bytes, row_scales, share),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => rows.blocks::<Avx2, E>(words, row_scales, share),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::AvxVnni => rows.blocks::<AvxVnni, E>(bytes, row_scales, share),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512Vnni => rows.blocks::<Avx512Vnni, E>(bytes, row_scales, share),
                #[cfg(not(target_arch = "x86_64"))]
                InstructionSet::Avx2 | InstructionSet::AvxVnni | InstructionSet::Avx512Vnni => {
                    let _of_another_set = words;
                    return Err(RunError::NotPresent(set));
                }
            }
        };
        done.map_err(RunError::Share)
    }

    fn panels(&self) -> usize {
        self.constants.scales.len() / PANEL
    }

    fn panel(&self, index: usize) -> Option<Panel<'a>> {
        fn cut<T>(of: &[T], index: usize) -> Option<&[T; PANEL]> {
            of.as_chunks().0.get(index)
        }
        let depth = self.depth();
        let rest = self.constants.weights.get(index * PANEL * depth..)?;
        let (weights, next) = rest.split_at_checked(PANEL * depth)?;
        Some(Panel {
            depth,
            weights,
            next,
            offsets: cut(self.constants.offsets, index)?,
            scales: cut(self.constants.scales, index)?,
            bias: cut(self.constants.bias, index)?,
            has_gelu: self.has_gelu,
        })
    }
}

/// The rows of one run, and where their results go.
struct Rows<'a> {
    layer: &'a Layer<'a>,
    x: &'a [f32],
    outputs: &'a [Shared<f32>],
}

impl Rows<'_> {
    /// Quantizes and multiplies block by block.
    ///
    /// # Safety
    /// The processor has the kernel's instructions; every output has room for all rows, and nobody else uses it.
    unsafe fn blocks<K: Kernel, E>(
        &self,
        codes: &mut Vec<K::Code>,
        row_scales: &mut Vec<f32>,
        share: impl Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), E>,
    ) -> Result<(), E> {
        let Self { layer, x, outputs } = self;
        let (depth, width) = (layer.depth(), layer.output_width());
        let block_rows = (BLOCK_CODES / depth).clamp(1, BLOCK_ROWS);
        for (block, x) in x.chunks(block_rows * depth).enumerate() {
            let rows = x.len() / depth;
            codes.resize(codes.len().max(rows * depth), K::Code::default());
            row_scales.resize(row_scales.len().max(rows), 0.0);
            let (codes, row_scales) = (&mut codes[..rows * depth], &mut row_scales[..rows]);
            if rows <= SLICE {
                // SAFETY: the caller says that the instructions are there.
                unsafe { K::quantize(layer, x, codes, row_scales) };
            } else {
                let (all_codes, all_scales) = (Shared(codes.as_mut_ptr()), Shared(row_scales.as_mut_ptr()));
                each_once(rows.div_ceil(SLICE), &share, &|slice| {
                    let begin = slice * SLICE;
                    let count = SLICE.min(rows - begin);
                    // SAFETY: slices of rows do not overlap, lie within both buffers, and each is used once; the
                    // caller says that the instructions are there.
                    unsafe {
                        let codes = std::slice::from_raw_parts_mut(all_codes.at(begin * depth), count * depth);
                        let row_scales = std::slice::from_raw_parts_mut(all_scales.at(begin), count);
                        K::quantize(layer, &x[begin * depth..][..count * depth], codes, row_scales);
                    }
                })?;
            }
            let (codes, row_scales) = (&*codes, &*row_scales);
            each_once(layer.panels(), &share, &|index| {
                let column = index * PANEL;
                let (Some(panel), Some(output)) = (layer.panel(index), outputs.get(column / width)) else { return };
                // SAFETY: the output has room for all rows, and each panel, computed once, has columns of its own in
                // it; codes and weights are as many as the layer's shape asks for; the caller says that the
                // instructions are there.
                unsafe {
                    let first = output.at(block * block_rows * width + column % width);
                    K::multiply(&panel, codes, row_scales, Columns { first, stride: width });
                }
            })?;
        }
        Ok(())
    }
}

/// Shares `count` parts out. Whatever `share` does, no part is done twice: two threads never write to one place.
fn each_once<E>(
    count: usize,
    share: &impl Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), E>,
    part: &(dyn Fn(usize) + Sync),
) -> Result<(), E> {
    let begun: Vec<AtomicBool> = (0..count).map(|_| AtomicBool::new(false)).collect();
    share(count, &|index| {
        if begun.get(index).is_some_and(|begun| !begun.swap(true, Ordering::Relaxed)) {
            part(index);
        }
    })
}

/// A pointer into a buffer whose parts threads write to, each its own.
struct Shared<T>(*mut T);

// SAFETY: the pointer is used for parts that no two threads share; its elements are plain numbers.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// The buffer has more than `index` elements, or as many.
    unsafe fn at(&self, index: usize) -> *mut T {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(index) }
    }
}
