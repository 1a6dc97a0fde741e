//! Finds the chains of nodes that compute an int8 linear layer, by how they hang together.
//!
//! ```text
//! e = x * evenness                                 (or x itself)
//! s = Max(ReduceMax(e) * step, ReduceMin(e) * -step, least)      (or without ReduceMin)
//! q = QuantizeLinear(e, s, Expand(zero))           rows are the axis
//! y = MatMulIntegerToFloat(q, weights, 1, scales, zero) * Unsqueeze(s)      one, two or three of them
//! z = y + bias, or BiasGelu(y, bias)               after a single product that nobody else reads
//! ```

use std::collections::{HashMap, HashSet};

use emotion_kernels::{Packing, Scheme};

use super::onnx::{FLOAT, Graph, INT8, Node, Tensor};

const MICROSOFT: &str = "com.microsoft";

/// Most products that share one quantized input.
const MOST_PRODUCTS: usize = 3;

/// One chain, and what its layer is made of.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Index of the node that quantizes: all that the layer reads is computed before it.
    pub position: usize,
    /// Indices of the nodes that compute the outputs.
    pub last: Vec<usize>,
    /// The value that is read.
    pub x: String,
    /// Constant that each row is multiplied by.
    pub evenness: Option<String>,
    /// How a row becomes bytes.
    pub scheme: Scheme,
    /// One a product.
    pub products: Vec<Product>,
    /// Shape of each product's weights.
    pub packing: Packing,
    /// Inputs and columns of each product.
    pub shape: [usize; 2],
    /// Constant that is added to the only product.
    pub bias: Option<String>,
    /// Whether GELU follows the bias.
    pub has_gelu: bool,
    /// Values computed, one a product.
    pub outputs: Vec<String>,
}

/// The constants of one product.
#[derive(Debug, Clone)]
pub struct Product {
    /// int8 `[inputs, columns]`.
    pub weights: String,
    /// float32 `[columns]`.
    pub scales: String,
}

/// A graph with what reads and computes each value.
pub struct View<'a> {
    graph: &'a Graph,
    constants: HashMap<&'a str, &'a Tensor>,
    makers: HashMap<&'a str, usize>,
    readers: HashMap<&'a str, Vec<usize>>,
    outputs: HashSet<&'a str>,
}

impl<'a> View<'a> {
    /// Of a graph; `None` when a node holds graphs of its own, which read values that are not listed.
    #[must_use]
    pub fn new(graph: &'a Graph) -> Option<Self> {
        let name = |value: &'a super::onnx::ValueInfo| value.name.as_deref().unwrap_or_default();
        let inputs: HashSet<_> = graph.input.iter().map(name).collect();
        let named = |tensor: &'a Tensor| Some((tensor.name.as_deref()?, tensor));
        // A constant that is an input too may be replaced by who runs the graph.
        let constants = graph.initializer.iter().filter_map(named).filter(|(name, _)| !inputs.contains(name));
        let (mut makers, mut readers) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for (index, node) in graph.node.iter().enumerate() {
            if node.attribute.iter().any(|attribute| attribute.g.is_some() || !attribute.graphs.is_empty()) {
                return None;
            }
            makers.extend(node.output.iter().map(|output| (output.as_str(), index)));
            node.input.iter().for_each(|input| readers.entry(input.as_str()).or_default().push(index));
        }
        let outputs = graph.output.iter().map(name).collect();
        Some(Self { graph, constants: constants.collect(), makers, readers, outputs })
    }

    /// Every chain whose layer there are kernels for.
    #[must_use]
    pub fn chains(&self) -> Vec<Chain> {
        (0..self.graph.node.len()).filter_map(|index| self.chain(index)).collect()
    }

    /// A constant of the graph.
    #[must_use]
    pub fn constant(&self, name: &str) -> Option<&'a Tensor> {
        self.constants.get(name).copied()
    }

    fn maker(&self, value: &str) -> Option<&'a Node> {
        self.graph.node.get(*self.makers.get(value)?)
    }

    /// The only node that reads a value which is no output of the graph.
    fn only_reader(&self, value: &str) -> Option<(usize, &'a Node)> {
        match self.readers.get(value)?[..] {
            [only] if !self.outputs.contains(value) => Some((only, self.graph.node.get(only)?)),
            _ => None,
        }
    }

    fn chain(&self, position: usize) -> Option<Chain> {
        let quantize = self.graph.node.get(position)?;
        let [evened, scale, zeros] = inputs(quantize, "", "QuantizeLinear")?;
        if quantize.only_integer("axis") != Some(0) {
            return None;
        }
        let [zero, _rows] = inputs(self.maker(zeros)?, "", "Expand")?;
        let zero_point = self.constant(zero)?.only_byte()?;
        let (step_of_largest, step_of_smallest, least) = self.row_scale(scale, evened)?;
        let [codes] = &quantize.output[..] else { return None };
        let readers = self.readers.get(codes.as_str())?;
        if readers.len() > MOST_PRODUCTS || self.outputs.contains(codes.as_str()) {
            return None;
        }
        let products =
            readers.iter().map(|index| self.product(*index, codes, scale, zero_point)).collect::<Option<Vec<_>>>()?;
        let shape = products.first()?.shape;
        if products.iter().any(|product| product.shape != shape) {
            return None;
        }
        let (x, evenness) = self.evenness(evened, shape[0]);
        let mut chain = Chain {
            position,
            x,
            evenness,
            scheme: Scheme { zero_point: i32::from(zero_point), step_of_largest, step_of_smallest, least },
            packing: Packing::new(shape[0], shape[1]).ok()?,
            shape,
            bias: None,
            has_gelu: false,
            last: products.iter().map(|product| product.last).collect(),
            outputs: products.iter().map(|product| product.output.clone()).collect(),
            products: products.into_iter().map(|product| product.constants).collect(),
        };
        if let [output] = &chain.outputs[..]
            && let Some((last, bias, has_gelu, output)) = self.bias(output, shape[1])
        {
            (chain.bias, chain.has_gelu, chain.last, chain.outputs) = (Some(bias), has_gelu, vec![last], vec![output]);
        }
        Some(chain)
    }

    /// Step of the largest value, of the smallest, and the least scale, of a row's scale.
    fn row_scale(&self, scale: &str, evened: &str) -> Option<(f32, f32, f32)> {
        let max = self.maker(scale).filter(|node| node.is("", "Max") && node.attribute.is_empty())?;
        let (mut of_largest, mut of_smallest, mut least) = (None, None, None);
        for candidate in &max.input {
            if let Some(constant) = self.constant(candidate) {
                set_once(&mut least, constant.only_float()?)?;
                continue;
            }
            let (reduced, step) = self.times_constant(candidate)?;
            let (reduce, step) = (self.maker(reduced)?, step.only_float()?);
            let reduced_to = |op_type| {
                let [of, axes] = inputs(reduce, "", op_type)?;
                let is_row =
                    self.constant(axes)?.only_integer() == Some(1) && reduce.only_integer("keepdims") == Some(0);
                (is_row && of == evened).then_some(step)
            };
            match (reduced_to("ReduceMax"), reduced_to("ReduceMin")) {
                (Some(step), _) => set_once(&mut of_largest, step)?,
                (None, step) => set_once(&mut of_smallest, step?)?,
            }
        }
        let steps = (of_largest?, of_smallest.unwrap_or(0.0), least?);
        let is_sound = steps.0 > 0.0 && steps.1 <= 0.0 && steps.2 > 0.0 && (steps.0 - steps.1 + steps.2).is_finite();
        is_sound.then_some(steps)
    }

    /// The two factors of a product of which one is constant.
    fn times_constant(&self, value: &str) -> Option<(&'a str, &'a Tensor)> {
        let [a, b] = inputs(self.maker(value)?, "", "Mul")?;
        match (self.constant(a), self.constant(b)) {
            (None, Some(constant)) => Some((a, constant)),
            (Some(constant), None) => Some((b, constant)),
            _ => None,
        }
    }

    fn evenness(&self, evened: &str, depth: usize) -> (String, Option<String>) {
        let factors = self.times_constant(evened).filter(|(_, factors)| is_vector(factors, depth));
        match factors.and_then(|(x, factors)| Some((x, factors.name.clone()?))) {
            Some((x, factors)) => (x.to_owned(), Some(factors)),
            None => (evened.to_owned(), None),
        }
    }

    fn product(&self, index: usize, codes: &str, scale: &str, zero_point: u8) -> Option<Found> {
        let product = self.graph.node.get(index)?;
        let [read, weights, one, scales, zero] = inputs(product, MICROSOFT, "MatMulIntegerToFloat")?;
        let (weights, scales) = (self.constant(weights)?, self.constant(scales)?);
        let [depth, width] = weights.dims[..] else { return None };
        let (depth, width) = (usize::try_from(depth).ok()?, usize::try_from(width).ok()?);
        let is_known = read == codes
            && self.constant(one)?.only_float() == Some(1.0)
            && self.constant(zero)?.only_byte() == Some(zero_point)
            && weights.data_type == Some(INT8)
            && is_vector(scales, width);
        if !is_known {
            return None;
        }
        let [integer] = &product.output[..] else { return None };
        let (last, mul) = self.only_reader(integer)?;
        let [a, b] = inputs(mul, "", "Mul")?;
        let column = if a == integer { b } else { a };
        let [of, axes] = inputs(self.maker(column)?, "", "Unsqueeze")?;
        if of != scale || self.constant(axes)?.only_integer() != Some(1) {
            return None;
        }
        let [output] = &mul.output[..] else { return None };
        let constants = Product { weights: weights.name.clone()?, scales: scales.name.clone()? };
        Some(Found { constants, shape: [depth, width], last, output: output.clone() })
    }

    /// The node that adds a bias to the value, the bias, whether GELU follows, and what comes out.
    fn bias(&self, value: &str, width: usize) -> Option<(usize, String, bool, String)> {
        let (last, node) = self.only_reader(value)?;
        let (has_gelu, [a, b]) = match inputs(node, "", "Add") {
            Some(both) => (false, both),
            None => (true, inputs(node, MICROSOFT, "BiasGelu")?),
        };
        let bias = if a == value { b } else { a };
        let is_bias = is_vector(self.constant(bias)?, width) && (a == value || !has_gelu);
        let [output] = &node.output[..] else { return None };
        is_bias.then(|| (last, bias.to_owned(), has_gelu, output.clone()))
    }
}

struct Found {
    constants: Product,
    shape: [usize; 2],
    last: usize,
    output: String,
}

/// The inputs of a node of this operator, when it has so many. Only operators that are named here with an attribute
/// may have one.
fn inputs<'a, const N: usize>(node: &'a Node, domain: &str, op_type: &str) -> Option<[&'a str; N]> {
    let may_have_attributes = ["QuantizeLinear", "ReduceMax", "ReduceMin"].contains(&op_type);
    if !node.is(domain, op_type) || node.attribute.is_empty() == may_have_attributes {
        return None;
    }
    let inputs: Vec<_> = node.input.iter().map(String::as_str).collect();
    inputs.try_into().ok()
}

fn is_vector(tensor: &Tensor, length: usize) -> bool {
    tensor.data_type == Some(FLOAT) && matches!(tensor.dims[..], [only] if usize::try_from(only) == Ok(length))
}

fn set_once(place: &mut Option<f32>, value: f32) -> Option<()> {
    place.replace(value).is_none().then_some(())
}
