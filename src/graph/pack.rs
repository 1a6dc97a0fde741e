//! Writes a graph with a packed layer in the place of each chain, and the weights file beside it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::chain::{Chain, View};
use super::function::function;
use super::onnx::{Attribute, EXTERNAL, Entry, FLOAT, Graph, INT8, INT32, Model, Node, OperatorSet, Tensor};
use super::tensor::Files;
use super::{DOMAIN, GraphError, OPERATORS, Operator};

/// Packed weights begin on a page: their cache lines are whole ones, and no page is read for two of them.
const PAGE: u64 = 4096;
/// All other constants begin on a cache line.
const LINE: u64 = 64;
/// Below this part of a graph's packed weights, ONNX Runtime may pack what is left, into memory of its own.
const LEFT_PART: u64 = 4;
/// Ending of the names of constants that are made here.
const PACKED: &str = ".packed";
/// Least version of the format that knows functions.
const LEAST_IR_VERSION: i64 = 8;

/// A graph that can be packed.
pub struct Plan {
    source: PathBuf,
    model: Model,
    chains: Vec<Chain>,
}

impl Plan {
    /// Reads the graph and looks for layers to pack. `None` when there are none, or when so many other products are
    /// left that the graph is better run as it is.
    ///
    /// # Errors
    /// [`GraphError`] when the graph cannot be read.
    pub fn of(source: &Path) -> Result<Option<Self>, GraphError> {
        let model = Model::read(source)?;
        let Some(graph) = &model.graph else { return Ok(None) };
        let chains = if is_rewritable(&model) { View::new(graph).map(|view| checked(&view, graph)) } else { None };
        Ok(chains.flatten().map(|chains| Self { source: source.to_path_buf(), model, chains }))
    }

    /// Writes the packed graph and its weights. Files of the source that hold nothing packed are linked into the same
    /// folder, or copied where that cannot be done.
    ///
    /// # Errors
    /// [`GraphError`]; what was written by then stays.
    pub fn write(self, graph: &Path, weights: &Path) -> Result<(), GraphError> {
        let Self { source, mut model, chains } = self;
        let folder = source.parent().unwrap_or(Path::new(".")).to_path_buf();
        let Some(old) = model.graph.take() else { return Ok(()) };
        let mut writer = Writer::new(Files::new(&folder), weights)?;
        let mut nodes = HashMap::new();
        for chain in &chains {
            nodes.insert(chain.position, writer.layer(&old, chain)?);
        }
        let mut new = with_layers(old, &chains, nodes);
        let linked = writer.constants(&mut new, graph)?;
        writer.finish()?;
        for name in linked {
            let (from, to) = (folder.join(&name), graph.with_file_name(&name));
            // Through a symbolic link to the file itself, which a hard link would not follow.
            let link = fs::canonicalize(&from).and_then(|from| fs::hard_link(from, &to));
            link.or_else(|_| fs::copy(&from, &to).map(drop)).map_err(|source| GraphError::File { path: to, source })?;
        }
        let opset = model.opset("").unwrap_or_default();
        model.functions.extend(used(&chains).map(|operator| function(operator, opset)));
        model.opset_import.push(OperatorSet { domain: Some(DOMAIN.to_owned()), version: Some(1) });
        model.graph = Some(new);
        model.write(graph)
    }
}

fn is_rewritable(model: &Model) -> bool {
    model.ir_version.is_some_and(|version| version >= LEAST_IR_VERSION) && model.opset(DOMAIN).is_none()
}

/// The chains, when they are most of the graph's products and their names are free.
fn checked(view: &View<'_>, graph: &Graph) -> Option<Vec<Chain>> {
    let chains = view.chains();
    let mut names = HashSet::new();
    let is_named = |tensor: &Tensor| tensor.name.as_deref().is_some_and(|name| name.contains(PACKED));
    let are_new = chains.iter().all(|chain| names.insert(name_of(chain))) && !graph.initializer.iter().any(is_named);
    let are_found = graph.initializer.iter().all(|tensor| !tensor.is_external() || tensor.place().is_some());
    let packed_names: HashSet<_> =
        chains.iter().flat_map(|chain| &chain.products).map(|product| &product.weights).collect();
    let packed: u64 = packed_names.iter().filter_map(|name| view.constant(name)?.bytes()).sum();
    let is_product = |node: &&Node| {
        node.op_type.as_deref().is_some_and(|op_type| {
            op_type.contains("MatMul") || op_type.contains("Gemm") || op_type.contains("QAttention")
        })
    };
    let left = graph.node.iter().filter(is_product).filter_map(|node| node.input.get(1));
    let left = left.filter(|name| !packed_names.contains(name)).filter_map(|name| view.constant(name)?.bytes());
    (are_new && are_found && !chains.is_empty() && left.sum::<u64>() <= packed / LEFT_PART).then_some(chains)
}

fn used(chains: &[Chain]) -> impl Iterator<Item = Operator> {
    OPERATORS.into_iter().filter(|operator| chains.iter().any(|chain| operator_of(chain) == Some(*operator)))
}

fn operator_of(chain: &Chain) -> Option<Operator> {
    let is_of = |operator: &Operator| (operator.outputs, operator.has_gelu) == (chain.outputs.len(), chain.has_gelu);
    OPERATORS.into_iter().find(is_of)
}

fn name_of(chain: &Chain) -> String {
    let first = chain.products.first().map(|product| product.weights.as_str());
    format!("{}{PACKED}", first.unwrap_or_default())
}

/// The graph with each chain's node where its input was quantized, without what nobody reads any more.
fn with_layers(mut graph: Graph, chains: &[Chain], mut layers: HashMap<usize, Node>) -> Graph {
    let replaced: HashSet<usize> = chains.iter().flat_map(|chain| chain.last.iter().copied()).collect();
    let mut nodes = Vec::with_capacity(graph.node.len());
    for (index, node) in graph.node.into_iter().enumerate() {
        nodes.extend(layers.remove(&index));
        if !replaced.contains(&index) {
            nodes.push(node);
        }
    }
    // Nodes stand behind those that they read, so one way back finds everything that is needed.
    let mut needed: HashSet<String> = graph.output.iter().filter_map(|output| output.name.clone()).collect();
    let mut kept = Vec::with_capacity(nodes.len());
    for node in nodes.into_iter().rev() {
        if node.output.iter().any(|output| needed.contains(output)) {
            needed.extend(node.input.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.node = kept;
    graph.value_info.retain(|value| value.name.as_ref().is_some_and(|name| needed.contains(name)));
    graph
}

/// Writes the weights file, one constant behind the other.
struct Writer {
    files: Files,
    path: PathBuf,
    file: BufWriter<File>,
    end: u64,
    /// Constants of packed layers.
    made: Vec<Tensor>,
    /// Files of which weights were packed.
    packed_from: HashSet<String>,
}

impl Writer {
    fn new(files: Files, path: &Path) -> Result<Self, GraphError> {
        let file = File::create(path).map_err(|source| GraphError::File { path: path.to_path_buf(), source })?;
        let (file, path) = (BufWriter::new(file), path.to_path_buf());
        Ok(Self { files, path, file, end: 0, made: Vec::new(), packed_from: HashSet::new() })
    }

    /// Writes the constants of a layer and returns its node.
    fn layer(&mut self, graph: &Graph, chain: &Chain) -> Result<Node, GraphError> {
        let name = name_of(chain);
        let [depth, width] = chain.shape;
        let all = width * chain.products.len();
        let offset = self.align(PAGE)?;
        let (mut scales, mut offsets) = (Vec::new(), Vec::new());
        for product in &chain.products {
            let weights = self.find(graph, &product.weights)?;
            self.packed_from.extend(weights.place().map(|place| place.file));
            let plain = self.files.read(weights)?;
            let mut packed = vec![0; plain.len()];
            let zero_point = u8::try_from(chain.scheme.zero_point).unwrap_or_default();
            let sums = chain.packing.pack(&plain, &mut packed).and_then(|()| chain.packing.offsets(&plain, zero_point));
            let sums = sums.map_err(|error| self.invalid(format!("{}: {error}", product.weights)))?;
            offsets.extend(sums.iter().flat_map(|offset| offset.to_le_bytes()));
            self.write(&packed)?;
            let of_product = self.find(graph, &product.scales)?;
            scales.extend(self.files.read(of_product)?);
        }
        let [strips, groups, columns, inputs] = chain.packing.dimensions();
        let dims = [strips * chain.products.len(), groups, columns, inputs];
        self.place(&name, INT8, &dims, offset, (depth * all) as u64);
        let (scales_name, offsets_name) = (format!("{name}.scales"), format!("{name}.offsets"));
        self.add(&scales_name, FLOAT, &[all], &scales)?;
        self.add(&offsets_name, INT32, &[all], &offsets)?;
        // A function's body cannot do without an input, so each layer has a bias and an evenness.
        let bias = match &chain.bias {
            Some(bias) => bias.clone(),
            None => self.same_floats("no_bias", 0.0, all)?,
        };
        let evenness = match &chain.evenness {
            Some(evenness) => evenness.clone(),
            None => self.same_floats("even", 1.0, depth)?,
        };
        let operator = operator_of(chain).ok_or_else(|| self.invalid(format!("{name} has too many outputs")))?;
        let inputs = [&chain.x, &name, &scales_name, &offsets_name, &bias, &evenness].map(String::as_str);
        let outputs: Vec<_> = chain.outputs.iter().map(String::as_str).collect();
        let node = Node { name: Some(name.clone()), ..Node::new(DOMAIN, operator.name, &inputs, &outputs) };
        Ok(node
            .with(Attribute::int("zero_point", i64::from(chain.scheme.zero_point)))
            .with(Attribute::float("step_of_largest", chain.scheme.step_of_largest))
            .with(Attribute::float("step_of_smallest", chain.scheme.step_of_smallest))
            .with(Attribute::float("least", chain.scheme.least)))
    }

    /// Moves constants that lay beside packed weights, drops those that nobody reads, and returns the files that the
    /// others lie in.
    fn constants(&mut self, graph: &mut Graph, target: &Path) -> Result<BTreeSet<String>, GraphError> {
        let read: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
        let outputs: HashSet<&String> = graph.output.iter().filter_map(|output| output.name.as_ref()).collect();
        let mut kept = Vec::new();
        let mut linked = BTreeSet::new();
        let is_ours = |file: &str| [target, &self.path].iter().any(|path| path.file_name() == Some(file.as_ref()));
        let to_move: Vec<bool> = graph
            .initializer
            .iter()
            .map(|tensor| {
                tensor.place().is_some_and(|place| self.packed_from.contains(&place.file) || is_ours(&place.file))
            })
            .collect();
        for (tensor, to_move) in std::mem::take(&mut graph.initializer).into_iter().zip(to_move) {
            let is_read = tensor.name.as_ref().is_some_and(|name| read.contains(name) || outputs.contains(name));
            if !is_read {
                continue;
            }
            if !tensor.is_external() {
                kept.push(tensor);
                continue;
            }
            let name = tensor.name.clone().unwrap_or_default();
            let Some(place) = tensor.place() else {
                return Err(self.invalid(format!("the place of the constant {name:?} is not known")));
            };
            if !to_move {
                linked.insert(place.file);
                kept.push(tensor);
                continue;
            }
            let offset = self.align(LINE)?;
            self.files.copy(&tensor, &place, &mut self.file)?;
            self.end += place.bytes;
            kept.push(Tensor { external_data: self.entries(offset, place.bytes), ..tensor });
        }
        kept.append(&mut self.made);
        graph.initializer = kept;
        Ok(linked)
    }

    /// A constant that is the same float throughout, made once for each length.
    fn same_floats(&mut self, kind: &str, value: f32, count: usize) -> Result<String, GraphError> {
        let name = format!("{kind}_{count}{PACKED}");
        if !self.made.iter().any(|tensor| tensor.name.as_ref() == Some(&name)) {
            self.add(&name, FLOAT, &[count], &value.to_le_bytes().repeat(count))?;
        }
        Ok(name)
    }

    fn add(&mut self, name: &str, data_type: i32, dims: &[usize], bytes: &[u8]) -> Result<(), GraphError> {
        let offset = self.align(LINE)?;
        self.write(bytes)?;
        self.place(name, data_type, dims, offset, bytes.len() as u64);
        Ok(())
    }

    fn place(&mut self, name: &str, data_type: i32, dims: &[usize], offset: u64, bytes: u64) {
        self.made.push(Tensor {
            name: Some(name.to_owned()),
            data_type: Some(data_type),
            dims: dims.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX)).collect(),
            data_location: Some(EXTERNAL),
            external_data: self.entries(offset, bytes),
            ..Tensor::default()
        });
    }

    fn entries(&self, offset: u64, bytes: u64) -> Vec<Entry> {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        vec![
            Entry::new("location", &file),
            Entry::new("offset", &offset.to_string()),
            Entry::new("length", &bytes.to_string()),
        ]
    }

    fn find<'a>(&self, graph: &'a Graph, name: &str) -> Result<&'a Tensor, GraphError> {
        let found = graph.initializer.iter().find(|tensor| tensor.name.as_deref() == Some(name));
        found.ok_or_else(|| self.invalid(format!("it has no constant {name:?}")))
    }

    fn align(&mut self, to: u64) -> Result<u64, GraphError> {
        self.end = self.end.next_multiple_of(to);
        self.file.seek(SeekFrom::Start(self.end)).map_err(|source| self.failed(source))?;
        Ok(self.end)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), GraphError> {
        self.file.write_all(bytes).map_err(|source| self.failed(source))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> Result<(), GraphError> {
        self.file.flush().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> GraphError {
        GraphError::File { path: self.path.clone(), source }
    }

    fn invalid(&self, what: String) -> GraphError {
        GraphError::Invalid { path: self.path.clone(), what }
    }
}
