//! The order that weights are packed in, `[width / 16][depth / 4][16][4]`, as the bytes of their files.

use super::{GROUP, MOST_INPUTS, PANEL, STRIP, ShapeError};

/// The shape of a matrix that can be packed.
///
/// Packed matrices of the same depth one behind the other are the packed form of the matrices side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    depth: usize,
    width: usize,
}

impl Packing {
    /// For a matrix `[depth, width]`.
    ///
    /// # Errors
    /// [`ShapeError`] when no kernel is made for this shape.
    pub fn new(depth: usize, width: usize) -> Result<Self, ShapeError> {
        if depth == 0 || depth > MOST_INPUTS || !depth.is_multiple_of(GROUP) {
            return Err(ShapeError::Depth(depth));
        }
        if width == 0 || !width.is_multiple_of(PANEL) {
            return Err(ShapeError::Width { width, outputs: 1 });
        }
        Ok(Self { depth, width })
    }

    /// The dimensions of the packed weights.
    #[must_use]
    pub fn dimensions(&self) -> [usize; 4] {
        [self.width / STRIP, self.depth / GROUP, STRIP, GROUP]
    }

    /// Packs a matrix's bytes, row behind row.
    ///
    /// # Errors
    /// [`ShapeError`] when either is of another length than the shape has.
    pub fn pack(&self, plain: &[u8], packed: &mut [u8]) -> Result<(), ShapeError> {
        self.check(plain.len())?;
        self.check(packed.len())?;
        let lines = packed.as_chunks_mut::<{ STRIP * GROUP }>().0;
        for (index, line) in lines.iter_mut().enumerate() {
            let (strip, group) = (index / (self.depth / GROUP), index % (self.depth / GROUP));
            for step in 0..GROUP {
                let row = &plain[(group * GROUP + step) * self.width + strip * STRIP..][..STRIP];
                for (column, weight) in row.iter().enumerate() {
                    line[column * GROUP + step] = *weight;
                }
            }
        }
        Ok(())
    }

    /// What is added to the sums of each column, so that codes count from `zero_point`.
    ///
    /// # Errors
    /// [`ShapeError`] when the matrix is of another length than the shape has.
    pub fn offsets(&self, plain: &[u8], zero_point: u8) -> Result<Vec<i32>, ShapeError> {
        self.check(plain.len())?;
        let mut offsets = vec![0_i32; self.width];
        for row in plain.chunks_exact(self.width) {
            for (offset, weight) in offsets.iter_mut().zip(row) {
                *offset -= i32::from(weight.cast_signed()) * i32::from(zero_point);
            }
        }
        Ok(offsets)
    }

    fn check(&self, found: usize) -> Result<(), ShapeError> {
        let Self { depth, width } = *self;
        let expected = depth * width;
        if found == expected {
            Ok(())
        } else {
            Err(ShapeError::Length { what: "weights", depth, width, expected, found })
        }
    }
}
