//! Collects the modules and tensors of a tree in the order of their registration.
//!
//! Owns how a linear, a convolution or a norm becomes modules and tensors. Leaves what there is to the callers.

use crate::device_map::{ModelTree, TensorKind, TreeModule, TreeTensor};
use crate::tensor::Dtype;

/// Collects modules in the order of registration, with their tensors.
pub(super) struct Builder {
    dtype: Dtype,
    modules: Vec<TreeModule>,
    params: Vec<TreeTensor>,
    buffers: Vec<TreeTensor>,
}

impl Builder {
    /// An empty tree whose parameters are of type `dtype`.
    pub(super) fn new(dtype: Dtype) -> Self {
        Self { dtype, modules: Vec::new(), params: Vec::new(), buffers: Vec::new() }
    }

    /// The type of the parameters.
    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }

    pub(super) fn module(&mut self, name: &str, class: &str) {
        self.modules.push(TreeModule { name: name.to_owned(), class: class.to_owned() });
    }

    pub(super) fn param(&mut self, name: &str, shape: &[u64]) {
        self.push_param(name.to_owned(), shape, false);
    }

    fn push_param(&mut self, name: String, shape: &[u64], linear: bool) {
        let kind = TensorKind::Param { linear };
        self.params.push(TreeTensor { name, shape: shape.to_vec(), dtype: self.dtype, kind });
    }

    pub(super) fn buffer(&mut self, name: &str, shape: &[u64], dtype: Dtype) {
        let kind = TensorKind::Buffer { persistent: false };
        self.buffers.push(TreeTensor { name: name.to_owned(), shape: shape.to_vec(), dtype, kind });
    }

    pub(super) fn linear_weight(&mut self, name: &str, out: u64, inp: u64) {
        self.push_param(format!("{name}.weight"), &[out, inp], true);
    }

    pub(super) fn linear(&mut self, name: &str, out: u64, inp: u64, bias: bool) {
        self.module(name, "Linear");
        self.linear_weight(name, out, inp);
        if bias {
            self.push_param(format!("{name}.bias"), &[out], false);
        }
    }

    pub(super) fn conv(&mut self, name: &str, shape: &[u64]) {
        self.module(name, "Conv2d");
        self.param(&format!("{name}.weight"), shape);
        self.param(&format!("{name}.bias"), shape.get(..1).unwrap_or_default());
    }

    /// A norm with a weight only.
    pub(super) fn norm(&mut self, name: &str, class: &str, width: u64) {
        self.module(name, class);
        self.param(&format!("{name}.weight"), &[width]);
    }

    /// A norm with weight and bias.
    pub(super) fn layer_norm(&mut self, name: &str, class: &str, width: u64) {
        self.norm(name, class, width);
        self.param(&format!("{name}.bias"), &[width]);
    }

    pub(super) fn finish(mut self, tied: Vec<Vec<String>>) -> ModelTree {
        self.params.append(&mut self.buffers);
        let tree = ModelTree { modules: self.modules, tensors: self.params, tied, ..ModelTree::default() };
        tree.with_direct_params()
    }
}
