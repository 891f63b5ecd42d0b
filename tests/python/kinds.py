"""A tiny random checkpoint of every kind that a bundle's card has lines for, with its tokenizer or processor.

Each function saves one in bfloat16 and returns it with inputs for its `forward`. Their sizes are those of a test; their
classes and files are those of released models.
"""

import json

import numpy
import torch
import transformers as t
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel

WORDS = "the capital of france is paris . , a cat orange square what this <image>".split()
IDS = torch.tensor([[5, 9, 12, 7], [8, 6, 11, 10]])
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
PATCHES = {"image_size": 224, "patch_size": 56}


def words(folder, special, cls=t.PreTrainedTokenizerFast, **options):
    """A tokenizer of whole words. `special`: what a model of the kind calls its special tokens."""
    vocab = {word: number for number, word in enumerate([*special.values(), *WORDS])}
    made = Tokenizer(WordLevel(vocab, unk_token=next(iter(special.values()))))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    tokenizer = cls(tokenizer_object=made, **special, **options)
    tokenizer.save_pretrained(folder)
    return tokenizer


LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def pictures():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def sounds(length):
    return torch.randn(2, length, generator=torch.Generator().manual_seed(1))


def save(model, folder):
    """With weights by which a right load differs from a random one: each tensor has a mean of its own."""
    with torch.no_grad():
        for at, parameter in enumerate(model.parameters()):
            parameter.add_(0.001 * (at % 7))
    # As released models are, so that a bf16 bundle holds the same bits.
    model.to(torch.bfloat16).eval().save_pretrained(folder)
    return model


def llama(folder):
    words(folder, LLAMA)
    config = t.LlamaConfig(vocab_size=64, num_key_value_heads=2, **SIZES)
    return save(t.LlamaForCausalLM(config), folder), {"input_ids": IDS}


def llama_alone(folder):
    """No tokenizer beside it."""
    config = t.LlamaConfig(vocab_size=64, num_key_value_heads=2, **SIZES)
    return save(t.LlamaForCausalLM(config), folder), {"input_ids": IDS}


def llama_of_another_type(folder):
    """What `AutoModelForCausalLM` would make a Mistral of."""
    words(folder, LLAMA)
    config = t.LlamaConfig(vocab_size=64, num_key_value_heads=2, attention_bias=True, **SIZES)
    model = save(t.LlamaForCausalLM(config), folder)
    edit(folder, model_type="mistral")
    return model, {"input_ids": IDS}


def edit(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def t5_config():
    return t.T5Config(vocab_size=64, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, decoder_start_token_id=0)


def t5(folder):
    words(folder, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"})
    return save(t.T5ForConditionalGeneration(t5_config()), folder), {"input_ids": IDS, "decoder_input_ids": IDS}


def t5_model(folder):
    words(folder, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"})
    return save(t.T5Model(t5_config()), folder), {"input_ids": IDS, "decoder_input_ids": IDS}


def t5_model_alone(folder):
    return save(t.T5Model(t5_config()), folder), {"input_ids": IDS, "decoder_input_ids": IDS}


def t5_encoder(folder):
    words(folder, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"})
    return save(t.T5EncoderModel(t5_config()), folder), {"input_ids": IDS}


BERT = {name: f"[{name[:-6].upper()}]" for name in ["unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]}


def bert(folder, cls="BertModel", **options):
    vocab = {word: number for number, word in enumerate([*BERT.values(), *WORDS])}
    t.BertTokenizer(vocab=vocab).save_pretrained(folder)
    config = t.BertConfig(vocab_size=64, **SIZES, **options)
    return save(getattr(t, cls)(config), folder), {"input_ids": IDS}


def bert_alone(folder):
    return save(t.BertModel(t.BertConfig(vocab_size=64, **SIZES)), folder), {"input_ids": IDS}


def bert_masked(folder):
    return bert(folder, "BertForMaskedLM")


def bert_pretraining(folder):
    return bert(folder, "BertForPreTraining")


def bert_classes(folder):
    return bert(folder, "BertForSequenceClassification", num_labels=3)


def bert_tokens(folder):
    return bert(folder, "BertForTokenClassification", num_labels=3)


def bert_answers(folder):
    return bert(folder, "BertForQuestionAnswering")


def vit(folder):
    t.ViTImageProcessor().save_pretrained(folder)
    model = t.ViTForImageClassification(t.ViTConfig(num_labels=3, **PATCHES, **SIZES))
    return save(model, folder), {"pixel_values": pictures()}


def vit_model(folder):
    t.ViTImageProcessor().save_pretrained(folder)
    return save(t.ViTModel(t.ViTConfig(**PATCHES, **SIZES)), folder), {"pixel_values": pictures()}


def vit_alone(folder):
    return save(t.ViTModel(t.ViTConfig(**PATCHES, **SIZES)), folder), {"pixel_values": pictures()}


def glpn(folder):
    t.GLPNImageProcessor().save_pretrained(folder)
    config = t.GLPNConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[32, 64],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[2, 4],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
    )
    return save(t.GLPNForDepthEstimation(config), folder), {"pixel_values": pictures()}


def clip_tokenizer(folder):
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate([*letters, *(f"{letter}</w>" for letter in letters), *special])}
    return t.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=32)


def clip(folder):
    t.CLIPProcessor(t.CLIPImageProcessor(), clip_tokenizer(folder)).save_pretrained(folder)
    config = t.CLIPConfig(
        text_config={"vocab_size": 64, "max_position_embeddings": 32, "bos_token_id": 52, "eos_token_id": 53, **SIZES},
        vision_config={**PATCHES, **SIZES},
    )
    return save(t.CLIPModel(config), folder), {"input_ids": IDS, "pixel_values": pictures()}


def clip_text_projection(folder):
    """No Auto class gives it."""
    clip_tokenizer(folder).save_pretrained(folder)
    config = t.CLIPTextConfig(vocab_size=64, max_position_embeddings=32, eos_token_id=53, bos_token_id=52, **SIZES)
    return save(t.CLIPTextModelWithProjection(config), folder), {"input_ids": IDS}


def llava_model(folder, template):
    tokenizer = words(folder, LLAMA, extra_special_tokens={"image_token": "<image>"})
    processor = t.LlavaProcessor(
        t.CLIPImageProcessor(),
        tokenizer,
        patch_size=56,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    processor.save_pretrained(folder)
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**PATCHES, **SIZES),
        text_config=t.LlamaConfig(vocab_size=64, num_key_value_heads=2, **SIZES),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    tokens = torch.full((2, 20), 5)
    tokens[:, 1:17] = config.image_token_index
    model = save(t.LlavaForConditionalGeneration(config), folder)
    return model, {"input_ids": tokens, "pixel_values": pictures()}


def llava(folder):
    return llava_model(folder, None)


def llava_chat(folder):
    return llava_model(
        folder,
        "{% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}",
    )


def whisper(folder):
    features = t.WhisperFeatureExtractor(feature_size=8, chunk_length=2)
    special = {"eos_token": "<|endoftext|>"}
    letters = {letter: number for number, letter in enumerate(["<|endoftext|>", *"abcdefghijklmnopqrstuvwxyzĠ"])}
    tokenizer = t.WhisperTokenizer(vocab=letters, merges=[], **special)
    t.WhisperProcessor(features, tokenizer).save_pretrained(folder)
    config = t.WhisperConfig(
        vocab_size=64,
        num_mel_bins=8,
        d_model=128,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=256,
        decoder_ffn_dim=256,
        max_source_positions=100,
        max_target_positions=64,
        decoder_start_token_id=1,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = t.WhisperForConditionalGeneration(config)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 0
    features = torch.randn(2, 8, 200, generator=torch.Generator().manual_seed(1))
    return save(model, folder), {"input_features": features, "decoder_input_ids": IDS}


def wav2vec2_config():
    sizes = {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2}
    return t.Wav2Vec2Config(vocab_size=32, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, **sizes, **SIZES)


def wav2vec2_ctc(folder):
    vocab = folder / "vocab.json"
    folder.mkdir(exist_ok=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    vocab.write_text(json.dumps({letter: number for number, letter in enumerate(letters)}))
    t.Wav2Vec2Processor(t.Wav2Vec2FeatureExtractor(), t.Wav2Vec2CTCTokenizer(str(vocab))).save_pretrained(folder)
    return save(t.Wav2Vec2ForCTC(wav2vec2_config()), folder), {"input_values": sounds(1600)}


def wav2vec2_classes(folder):
    t.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return save(t.Wav2Vec2ForSequenceClassification(wav2vec2_config()), folder), {"input_values": sounds(1600)}


def wav2vec2_model(folder):
    t.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return save(t.Wav2Vec2Model(wav2vec2_config()), folder), {"input_values": sounds(1600)}


def time_series(folder):
    """Neither text nor picture nor sound: the card has no example for it."""
    config = t.PatchTSTConfig(num_input_channels=2, context_length=32, patch_length=8, d_model=128, ffn_dim=256)
    model = save(t.PatchTSTForPrediction(config), folder)
    return model, {"past_values": torch.tensor(numpy.linspace(0, 1, 128).reshape(2, 32, 2)).float()}


#: Name → what makes it, and what its card imports: the Auto class or the class itself.
KINDS = {
    "llama": (llama, "AutoModelForCausalLM"),
    "llama-alone": (llama_alone, "AutoModelForCausalLM"),
    "llama-of-another-type": (llama_of_another_type, "LlamaForCausalLM"),
    "t5": (t5, "AutoModelForSeq2SeqLM"),
    "t5-model": (t5_model, "AutoModel"),
    "t5-model-alone": (t5_model_alone, "AutoModel"),
    "t5-encoder": (t5_encoder, "AutoModelForTextEncoding"),
    "bert": (bert, "AutoModel"),
    "bert-alone": (bert_alone, "AutoModel"),
    "bert-masked": (bert_masked, "AutoModelForMaskedLM"),
    "bert-pretraining": (bert_pretraining, "AutoModelForPreTraining"),
    "bert-classes": (bert_classes, "AutoModelForSequenceClassification"),
    "bert-tokens": (bert_tokens, "AutoModelForTokenClassification"),
    "bert-answers": (bert_answers, "AutoModelForQuestionAnswering"),
    "vit": (vit, "AutoModelForImageClassification"),
    "vit-model": (vit_model, "AutoModel"),
    "vit-alone": (vit_alone, "AutoModel"),
    "glpn": (glpn, "AutoModelForDepthEstimation"),
    "clip": (clip, "AutoModelForZeroShotImageClassification"),
    "clip-text-projection": (clip_text_projection, "CLIPTextModelWithProjection"),
    "llava": (llava, "AutoModelForImageTextToText"),
    "llava-chat": (llava_chat, "AutoModelForImageTextToText"),
    "whisper": (whisper, "AutoModelForSpeechSeq2Seq"),
    "wav2vec2-ctc": (wav2vec2_ctc, "AutoModelForCTC"),
    "wav2vec2-classes": (wav2vec2_classes, "AutoModelForAudioClassification"),
    "wav2vec2-model": (wav2vec2_model, "AutoModel"),
    "time-series": (time_series, "PatchTSTForPrediction"),
}


def plain(folder):
    """Tensors and nothing else, in two files."""
    numbers = torch.Generator().manual_seed(0)
    tensors = {f"layers.{at}.weight": torch.randn(128, 128, generator=numbers) for at in range(4)}
    folder.mkdir()
    shards = {"a.safetensors": ["layers.0.weight", "layers.1.weight"], "b.safetensors": ["layers.2.weight", "layers.3.weight"]}
    for shard, names in shards.items():
        save_file({name: tensors[name] for name in names}, folder / shard, metadata={"format": "pt"})
    weight_map = {name: shard for shard, names in shards.items() for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tensors
