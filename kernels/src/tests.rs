//! Every instruction set that this processor has gives the bits of a naive layer.

use proptest::prelude::*;

use super::gelu::{self, gelu};
use super::{Constants, GROUP, InstructionSet, Layer, MOST_INPUTS, PANEL, Packing, Scheme, Scratch};

const BOTH_SIGNS: Scheme =
    Scheme { zero_point: 128, step_of_largest: 1.0 / 127.0, step_of_smallest: -1.0 / 127.0, least: 1e-30 };
const AFTER_GELU: Scheme =
    Scheme { zero_point: 16, step_of_largest: 1.0 / 239.0, step_of_smallest: 0.0, least: 0.17 / 16.0 };

/// A layer's tensors as its export has them.
#[derive(Debug)]
struct Plain {
    depth: usize,
    width: usize,
    outputs: usize,
    /// `[depth][width]`
    weights: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    evenness: Vec<f32>,
    scheme: Scheme,
    has_gelu: bool,
}

/// Numbers that look random, the same for each seed.
struct Noise(u64);

impl Noise {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

impl Plain {
    fn new(depth: usize, width: usize, outputs: usize, scheme: Scheme, has_gelu: bool, seed: u64) -> Self {
        let mut noise = Noise(seed);
        // A third are extremes: pairs of their products with the largest codes overflow 16 bits.
        let mut weight = || match noise.bits() % 6 {
            0 => -128,
            1 => 127,
            _ => noise.bits() as i8,
        };
        let weights = (0..depth * width).map(|_| weight()).collect();
        Self {
            depth,
            width,
            outputs,
            weights,
            scales: (0..width).map(|_| 0.001 + 0.001 * noise.float().abs()).collect(),
            bias: (0..width).map(|_| noise.float()).collect(),
            evenness: (0..depth).map(|_| 1.0 + 0.5 * noise.float()).collect(),
            scheme,
            has_gelu,
        }
    }

    fn rows(&self, rows: usize, seed: u64) -> Vec<f32> {
        let mut noise = Noise(seed);
        let least = if self.scheme.step_of_smallest == 0.0 { -0.05 } else { -1.0 };
        let mut x: Vec<f32> = (0..rows * self.depth).map(|_| noise.float().max(least) * 3.0).collect();
        if let Some(first) = x.chunks_mut(self.depth).next() {
            first.fill(0.0);
        }
        if let Some(last) = x.chunks_mut(self.depth).last() {
            last.fill(2.0);
        }
        x
    }

    fn packed(&self) -> Vec<i8> {
        let plain: Vec<u8> = self.weights.iter().map(|weight| weight.cast_unsigned()).collect();
        let mut packed = vec![0; plain.len()];
        Packing::new(self.depth, self.width).unwrap().pack(&plain, &mut packed).unwrap();
        packed.into_iter().map(u8::cast_signed).collect()
    }

    fn offsets(&self) -> Vec<i32> {
        let sum = |column: usize| -> i32 {
            (0..self.depth).map(|input| i32::from(self.weights[input * self.width + column])).sum()
        };
        (0..self.width).map(|column| -self.scheme.zero_point * sum(column)).collect()
    }

    /// The bits of the outputs, one after the other, as the formulas are written.
    fn naive(&self, x: &[f32]) -> Vec<u32> {
        let (scheme, offsets) = (&self.scheme, self.offsets());
        let rows = x.len() / self.depth;
        let mut all = vec![0; rows * self.width];
        let part = self.width / self.outputs;
        for (row, x) in x.chunks_exact(self.depth).enumerate() {
            let even: Vec<f32> = x.iter().zip(&self.evenness).map(|(value, factor)| value * factor).collect();
            let largest = even.iter().copied().fold(f32::MIN, f32::max);
            let smallest = even.iter().copied().fold(f32::MAX, f32::min);
            let scale = (largest * scheme.step_of_largest).max(smallest * scheme.step_of_smallest).max(scheme.least);
            let code = |value: &f32| ((value / scale).round_ties_even() as i32 + scheme.zero_point).clamp(0, 255);
            let codes: Vec<i32> = even.iter().map(code).collect();
            let mut finished = Vec::new();
            for column in 0..self.width {
                let products = codes.iter().enumerate();
                let sum: i32 = products.map(|(k, code)| code * i32::from(self.weights[k * self.width + column])).sum();
                finished.push((sum + offsets[column]) as f32 * self.scales[column] * scale + self.bias[column]);
            }
            if self.has_gelu {
                finished.as_chunks_mut().0.iter_mut().for_each(gelu);
            }
            for (column, value) in finished.iter().enumerate() {
                all[column / part * rows * part + row * part + column % part] = value.to_bits();
            }
        }
        all
    }

    fn run(&self, set: InstructionSet, x: &[f32]) -> Vec<u32> {
        let (weights, offsets) = (self.packed(), self.offsets());
        let constants = Constants {
            weights: &weights,
            scales: &self.scales,
            offsets: &offsets,
            bias: &self.bias,
            evenness: &self.evenness,
        };
        let layer = Layer::new(constants, self.scheme, self.has_gelu, self.outputs).unwrap();
        let rows = x.len() / self.depth;
        let mut all = vec![f32::NAN; rows * self.width];
        let mut outputs: Vec<&mut [f32]> = match rows {
            0 => (0..self.outputs).map(|_| <&mut [f32]>::default()).collect(),
            _ => all.chunks_mut(rows * self.width / self.outputs).collect(),
        };
        // Backwards: the order of the parts is not to matter.
        let share = |count: usize, part: &(dyn Fn(usize) + Sync)| -> Result<(), ()> {
            (0..count).rev().for_each(part);
            Ok(())
        };
        layer.run(set, x, &mut outputs, &mut Scratch::default(), share).unwrap();
        all.iter().map(|value| value.to_bits()).collect()
    }
}

fn present() -> impl Iterator<Item = InstructionSet> {
    InstructionSet::ALL.into_iter().filter(|set| set.is_present())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 24 } else { 256 }))]

    #[test]
    fn every_set_gives_the_bits_of_a_naive_layer(
        (groups, panels, outputs) in (1..40_usize, 1..3_usize, 1..4_usize),
        rows in 0..20_usize,
        (after_gelu, has_gelu) in (any::<bool>(), any::<bool>()),
        seed in any::<u64>(),
    ) {
        let scheme = if after_gelu { AFTER_GELU } else { BOTH_SIGNS };
        let plain = Plain::new(groups * GROUP, panels * outputs * PANEL, outputs, scheme, has_gelu, seed);
        let x = plain.rows(rows, seed ^ 1);
        let naive = plain.naive(&x);
        for set in present() {
            prop_assert!(plain.run(set, &x) == naive, "{:?}, {} rows", set, rows);
        }
    }

    #[test]
    fn no_activation_panics_and_what_is_not_finite_shows(
        bits in prop::collection::vec(any::<u32>(), 5 * 16),
        after_gelu in any::<bool>(),
    ) {
        let scheme = if after_gelu { AFTER_GELU } else { BOTH_SIGNS };
        let plain = Plain::new(16, PANEL, 1, scheme, true, 3);
        let x: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let scalar = plain.run(InstructionSet::Scalar, &x);
        for set in present() {
            let results = plain.run(set, &x);
            for ((x, results), scalar) in x.chunks(16).zip(results.chunks(PANEL)).zip(scalar.chunks(PANEL)) {
                let is_odd = x.iter().zip(&plain.evenness).any(|(value, factor)| !(value * factor).is_finite());
                // Which of several NaNs comes out is the processor's choice.
                if is_odd {
                    prop_assert!(results.iter().all(|bits| !f32::from_bits(*bits).is_finite()), "{:?}", set);
                } else {
                    prop_assert!(results == scalar || scalar.iter().any(|bits| f32::from_bits(*bits).is_nan()));
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_more_rows_than_a_block_holds() {
    let plain = Plain::new(64, 2 * PANEL, 2, BOTH_SIGNS, false, 11);
    let x = plain.rows(300, 12);
    for set in present() {
        let all = plain.run(set, &x);
        for row in [0, 1, 127, 128, 200, 299] {
            let alone = plain.run(set, &x[row * 64..(row + 1) * 64]);
            let among: Vec<u32> =
                (0..2).flat_map(|output| &all[output * 300 * PANEL + row * PANEL..][..PANEL]).copied().collect();
            assert!(alone == among, "{set:?}, row {row}");
        }
    }
}

#[test]
fn the_largest_codes_and_weights_fit_at_the_greatest_depth() {
    let mut plain = Plain::new(MOST_INPUTS, PANEL, 1, AFTER_GELU, false, 5);
    for extreme in [-128, 127] {
        plain.weights.fill(extreme);
        let x = vec![2.0; MOST_INPUTS];
        let naive = plain.naive(&x);
        for set in present() {
            assert!(plain.run(set, &x) == naive, "{set:?}, {extreme}");
        }
    }
}

#[test]
fn what_is_far_below_its_rows_largest_value_gets_the_code_zero() {
    let plain = Plain::new(4, PANEL, 1, AFTER_GELU, false, 5);
    let scale = AFTER_GELU.least;
    for far in [-16.0, -17.0, -1e4, -1.3e7, -1e30] {
        let x = [far * scale, 0.0, 0.0, 0.0];
        let least = plain.naive(&[-16.0 * scale, 0.0, 0.0, 0.0]);
        for set in present() {
            assert!(plain.run(set, &x) == least, "{set:?}, {far}");
        }
    }
}

#[test]
fn shapes_that_no_kernel_is_made_for_are_refused_in_words() {
    let refusal = |depth: usize, width: usize, outputs: usize, weights: usize| {
        let constants = Constants {
            weights: &vec![0; weights],
            scales: &vec![0.0; width],
            offsets: &vec![0; width],
            bias: &vec![0.0; width],
            evenness: &vec![0.0; depth],
        };
        Layer::new(constants, BOTH_SIGNS, false, outputs).unwrap_err().to_string()
    };
    assert!(refusal(18, 64, 1, 18 * 64).contains("a multiple of 4, but not 18"));
    assert!(refusal(0, 64, 1, 0).contains("but not 0"));
    assert!(refusal(MOST_INPUTS + 4, 64, 1, 0).contains("to 65536 inputs"));
    assert!(refusal(16, 96, 1, 16 * 96).contains("a multiple of 64 columns, but not 96 in 1 outputs"));
    assert!(refusal(16, 64, 2, 16 * 64).contains("but not 64 in 2 outputs"));
    assert!(refusal(16, 64, 1, 5).contains("has 1024 weights, but not 5"));
}

/// The hash is of ONNX Runtime 1.32's BiasGelu on x86-64, AVX2 and AVX-512 alike.
#[test]
fn gelu_has_the_bits_of_onnx_runtime() {
    let positive = || (0..=12f32.to_bits()).step_by(4093);
    let mut x: Vec<f32> = positive().chain(positive().map(|bits| bits | 1 << 31)).map(f32::from_bits).collect();
    let count = x.len();
    x.resize(count.next_multiple_of(gelu::LANES), 0.0);
    x.as_chunks_mut().0.iter_mut().for_each(gelu);
    let hash = x[..count]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, value| (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3));
    assert_eq!((count, hash), (534_920, 0xf11c_3a74_a239_330c_u64));
}

#[test]
fn packed_weights_lie_in_the_order_that_kernels_read() {
    let plain: Vec<u8> = (0..8 * PANEL).map(|place| (place % 251) as u8).collect();
    let (packing, mut packed) = (Packing::new(8, PANEL).unwrap(), vec![0; plain.len()]);
    packing.pack(&plain, &mut packed).unwrap();
    assert_eq!(packing.dimensions(), [4, 2, 16, 4]);
    for (input, column) in [(0, 0), (3, 0), (4, 0), (7, 63), (2, 17)] {
        let place = column / 16 * 16 * 8 + input / 4 * 64 + column % 16 * 4 + input % 4;
        assert_eq!(packed[place], plain[input * PANEL + column], "{input}, {column}");
    }
    let column: i32 = (0..8).map(|input| i32::from(plain[input * PANEL + 5].cast_signed())).sum();
    assert_eq!(packing.offsets(&plain, 16).unwrap()[5], -16 * column);
    assert!(packing.pack(&plain[1..], &mut packed).unwrap_err().to_string().contains("has 512 weights, but not 511"));
    assert!(Packing::new(8, 32).is_err());
}
