//! MGM's vision half as a tree: the projector, both towers and `vlm_uni_*`.
//!
//! Owns the names, classes and shapes of CLIP ViT-L/14-336 and OpenCLIP's ConvNeXt-Large, and the order in which MGM
//! registers them. Leaves the language model to the parent. Source: MGM at commit 769820c, transformers 4.36.2 and timm,
//! built on the meta device and compared.

use super::builder::Builder;
use super::{MAX_PARTS, ModelConfig, Vision, bad};
use crate::error::DeviceMapError;
use crate::tensor::Dtype;

/// MGM's vision half, in the order in which it registers its modules.
pub(super) fn vision_half(
    tree: &mut Builder,
    config: &ModelConfig,
    vision: Vision,
) -> Result<(), DeviceMapError> {
    let width = config.mm_hidden_size.unwrap_or(CLIP_WIDTH);
    let width_aux = config.mm_hidden_size_aux.unwrap_or(CONVNEXT_WIDTHS.iter().sum());
    tree.module("model.vision_tower", "CLIPVisionTower");
    if vision == Vision::Full {
        clip_tower(tree);
    }
    projector(tree, config, width)?;
    tree.module("model.vision_tower_aux", "OpenCLIPVisionTower");
    if vision == Vision::Full {
        convnext_tower(tree);
        for (name, from) in [("query", width), ("aux", width_aux), ("val", width_aux)] {
            let name = format!("model.vlm_uni_{name}_projector");
            tree.module(&name, "Sequential");
            tree.layer_norm(&format!("{name}.0"), "LayerNorm", from);
            tree.linear(&format!("{name}.1"), width, from, true);
        }
    }
    Ok(())
}

fn projector(tree: &mut Builder, config: &ModelConfig, width: u64) -> Result<(), DeviceMapError> {
    let kind = config.mm_projector_type.as_deref().unwrap_or("linear");
    let hidden = config.hidden_size;
    if kind == "linear" {
        tree.linear("model.mm_projector", hidden, width, true);
        return Ok(());
    }
    let depth = kind.strip_prefix("mlp").and_then(|rest| rest.strip_suffix("x_gelu"));
    let depth =
        depth.and_then(|depth| depth.parse::<u64>().ok()).filter(|depth| (1..=MAX_PARTS).contains(depth));
    let depth = depth.ok_or_else(|| bad("mm_projector_type", kind))?;
    tree.module("model.mm_projector", "Sequential");
    tree.linear("model.mm_projector.0", hidden, width, true);
    for stage in 1..depth {
        tree.module(&format!("model.mm_projector.{}", 2 * stage - 1), "GELU");
        tree.linear(&format!("model.mm_projector.{}", 2 * stage), hidden, hidden, true);
    }
    Ok(())
}

/// CLIP ViT-L/14 at 336 pixels.
const CLIP_WIDTH: u64 = 1024;
const CLIP_LAYERS: u64 = 24;
const CLIP_PATCH: u64 = 14;
const CLIP_POSITIONS: u64 = (336 / CLIP_PATCH) * (336 / CLIP_PATCH) + 1;

fn clip_tower(tree: &mut Builder) {
    let width = CLIP_WIDTH;
    let tower = "model.vision_tower.vision_tower";
    let model = format!("{tower}.vision_model");
    tree.module(tower, "CLIPVisionModel");
    tree.module(&model, "CLIPVisionTransformer");
    let embeddings = format!("{model}.embeddings");
    tree.module(&embeddings, "CLIPVisionEmbeddings");
    tree.param(&format!("{embeddings}.class_embedding"), &[width]);
    tree.buffer(&format!("{embeddings}.position_ids"), &[1, CLIP_POSITIONS], Dtype::I64);
    tree.module(&format!("{embeddings}.patch_embedding"), "Conv2d");
    tree.param(&format!("{embeddings}.patch_embedding.weight"), &[width, 3, CLIP_PATCH, CLIP_PATCH]);
    tree.module(&format!("{embeddings}.position_embedding"), "Embedding");
    tree.param(&format!("{embeddings}.position_embedding.weight"), &[CLIP_POSITIONS, width]);
    tree.layer_norm(&format!("{model}.pre_layrnorm"), "LayerNorm", width);
    tree.module(&format!("{model}.encoder"), "CLIPEncoder");
    tree.module(&format!("{model}.encoder.layers"), "ModuleList");
    for layer in 0..CLIP_LAYERS {
        let layer = format!("{model}.encoder.layers.{layer}");
        tree.module(&layer, "CLIPEncoderLayer");
        tree.module(&format!("{layer}.self_attn"), "CLIPAttention");
        for projection in ["k_proj", "v_proj", "q_proj", "out_proj"] {
            tree.linear(&format!("{layer}.self_attn.{projection}"), width, width, true);
        }
        tree.layer_norm(&format!("{layer}.layer_norm1"), "LayerNorm", width);
        tree.module(&format!("{layer}.mlp"), "CLIPMLP");
        tree.module(&format!("{layer}.mlp.activation_fn"), "QuickGELUActivation");
        tree.linear(&format!("{layer}.mlp.fc1"), 4 * width, width, true);
        tree.linear(&format!("{layer}.mlp.fc2"), width, 4 * width, true);
        tree.layer_norm(&format!("{layer}.layer_norm2"), "LayerNorm", width);
    }
    tree.layer_norm(&format!("{model}.post_layernorm"), "LayerNorm", width);
}

/// OpenCLIP's ConvNeXt-Large: blocks and channels per stage.
const CONVNEXT_DEPTHS: [u64; 4] = [3, 3, 27, 3];
const CONVNEXT_WIDTHS: [u64; 4] = [192, 384, 768, 1536];

fn convnext_tower(tree: &mut Builder) {
    let tower = "model.vision_tower_aux";
    let [mut before, ..] = CONVNEXT_WIDTHS;
    tree.module(&format!("{tower}.vision_stem"), "Sequential");
    tree.conv(&format!("{tower}.vision_stem.0"), &[before, 3, 4, 4]);
    tree.layer_norm(&format!("{tower}.vision_stem.1"), "LayerNorm2d", before);
    tree.module(&format!("{tower}.vision_stages"), "Sequential");
    for (at, (depth, width)) in CONVNEXT_DEPTHS.into_iter().zip(CONVNEXT_WIDTHS).enumerate() {
        let stage = format!("{tower}.vision_stages.{at}");
        tree.module(&stage, "ConvNeXtStage");
        if at == 0 {
            tree.module(&format!("{stage}.downsample"), "Identity");
        } else {
            tree.module(&format!("{stage}.downsample"), "Sequential");
            tree.layer_norm(&format!("{stage}.downsample.0"), "LayerNorm2d", before);
            tree.conv(&format!("{stage}.downsample.1"), &[width, before, 2, 2]);
        }
        tree.module(&format!("{stage}.blocks"), "Sequential");
        for block in 0..depth {
            // The rate of the dropped paths rises from 0: the very first block drops none.
            let drop_path = if at == 0 && block == 0 { "Identity" } else { "DropPath" };
            let block = format!("{stage}.blocks.{block}");
            tree.module(&block, "ConvNeXtBlock");
            tree.param(&format!("{block}.gamma"), &[width]);
            tree.conv(&format!("{block}.conv_dw"), &[width, 1, 7, 7]);
            tree.layer_norm(&format!("{block}.norm"), "LayerNorm", width);
            tree.module(&format!("{block}.mlp"), "Mlp");
            tree.linear(&format!("{block}.mlp.fc1"), 4 * width, width, true);
            tree.module(&format!("{block}.mlp.act"), "GELU");
            tree.module(&format!("{block}.mlp.drop1"), "Dropout");
            tree.module(&format!("{block}.mlp.norm"), "Identity");
            tree.linear(&format!("{block}.mlp.fc2"), width, 4 * width, true);
            tree.module(&format!("{block}.mlp.drop2"), "Dropout");
            tree.module(&format!("{block}.shortcut"), "Identity");
            tree.module(&format!("{block}.drop_path"), drop_path);
        }
        before = width;
    }
}
