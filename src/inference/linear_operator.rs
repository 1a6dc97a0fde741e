//! The layer as operators of ONNX Runtime, in a domain of our own.
//!
//! Inputs: x f32 `[rows, K]`; weights i8 `[N/16, K/4, 16, 4]`; column scales f32 `[N]`; offsets i32 `[N]`; bias f32
//! `[N]`; evenness f32 `[K]`. Outputs: the N columns, cut into as many equal parts. Panels of columns are shared out
//! by ONNX Runtime's own threads.

use std::cell::RefCell;

use emotion_kernels::{Constants, InstructionSet, Layer, RunError, Scheme, Scratch};
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRef};

use crate::graph;

/// The operators, for a session.
///
/// # Errors
/// What ONNX Runtime says.
pub fn domain() -> ort::Result<OperatorDomain> {
    let domain = OperatorDomain::new(graph::DOMAIN)?;
    graph::OPERATORS.into_iter().try_fold(domain, |domain, operator| domain.add(Linear(operator)))
}

struct Linear(graph::Operator);

impl Operator for Linear {
    type Kernel<'attr> = LinearKernel;

    fn name(&self) -> &str {
        self.0.name
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        use TensorElementType::{Float32, Int8, Int32};
        [Float32, Int8, Float32, Int32, Float32, Float32].map(OperatorInput::required)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        (0..self.0.outputs).map(|_| OperatorOutput::required(TensorElementType::Float32)).collect::<Vec<_>>()
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<LinearKernel> {
        let missing = |name: &str| ort::Error::new(format!("{} has no attribute {name}", self.0.name));
        let float = |name: &str| context.get::<f32>(name).ok_or_else(|| missing(name));
        let zero_point = context.get::<i64>("zero_point").ok_or_else(|| missing("zero_point"))?;
        let zero_point = u8::try_from(zero_point)
            .map_err(|_| ort::Error::new(format!("zero_point is {zero_point}, but it must be from 0 to 255")))?;
        Ok(LinearKernel {
            operator: self.0,
            scheme: Scheme {
                zero_point: i32::from(zero_point),
                step_of_largest: float("step_of_largest")?,
                step_of_smallest: float("step_of_smallest")?,
                least: float("least")?,
            },
        })
    }
}

struct LinearKernel {
    operator: graph::Operator,
    scheme: Scheme,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl Kernel for LinearKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let input = |index: usize| context.input(index)?.ok_or_else(|| ort::Error::new("an input is missing"));
        let (x, weights, scales, offsets, bias, evenness) =
            (input(0)?, input(1)?, input(2)?, input(3)?, input(4)?, input(5)?);
        let constants = Constants {
            weights: elements(&weights)?,
            scales: elements(&scales)?,
            offsets: elements(&offsets)?,
            bias: elements(&bias)?,
            evenness: elements(&evenness)?,
        };
        let graph::Operator { outputs, has_gelu, .. } = self.operator;
        let layer = Layer::new(constants, self.scheme, has_gelu, outputs)
            .map_err(|error| ort::Error::new(error.to_string()))?;
        let (shape, x) = x.try_extract_tensor::<f32>()?;
        if shape.len() != 2 || usize::try_from(shape[1]) != Ok(layer.depth()) {
            let depth = layer.depth();
            return Err(ort::Error::new(format!("x has the shape {shape}, but this layer reads [rows, {depth}]")));
        }
        let output_shape = [shape[0], i64::try_from(layer.output_width()).unwrap_or(i64::MAX)];
        let mut outputs = (0..outputs)
            .map(|index| {
                let output = context.output(index, output_shape.to_vec())?;
                output.ok_or_else(|| ort::Error::new("an output is missing"))
            })
            .collect::<ort::Result<Vec<_>>>()?;
        let mut outputs = outputs
            .iter_mut()
            .map(|output| Ok(output.try_extract_tensor_mut::<f32>()?.1))
            .collect::<ort::Result<Vec<_>>>()?;
        let share = |count: usize, part: &(dyn Fn(usize) + Sync)| context.par_for(count, 0, part);
        SCRATCH.with_borrow_mut(|scratch| {
            layer.run(InstructionSet::best(), x, &mut outputs, scratch, share).map_err(|error| match error {
                RunError::Share(error) => error,
                RunError::Rows(_) | RunError::NotPresent(_) => ort::Error::new(error.to_string()),
            })
        })
    }
}

fn elements<'a, T: PrimitiveTensorElementType>(value: &'a ValueRef<'_>) -> ort::Result<&'a [T]> {
    Ok(value.try_extract_tensor::<T>()?.1)
}
