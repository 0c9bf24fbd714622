"""Which tests run for a mutant of which file, and which mutants change no number."""

from __future__ import annotations

ROOMS = (
    "methods",
    "baselines",
    "benchmark/backbones",
    "benchmark/metrics",
    "benchmark/run",
    "results/statistics",
)

# The files of a room, without `.py`, and the tests that cover them, the quickest first.
TESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "methods": {
        "p_adapter p_adapter_graph p_adapter_paper p_adapter_release": (
            "golden/test_p_adapter_reference.py",
            "golden/test_p_adapter_literal.py",
        ),
        "p_laplacian": (
            "golden/test_p_adapter_reference.py",
            "golden/test_p_laplacian.py",
        ),
        "routing": ("golden/test_routing_reference.py",),
    },
    "baselines": {
        "adapter compacter hyperformer vl_pet": (
            "golden/test_vl_methods_literal.py",
            "golden/test_baselines.py",
        ),
        "lora": (
            "golden/test_peft_lora.py",
            "golden/test_baselines.py",
        ),
        "dora ia3": ("golden/test_dora_ia3.py",),
        "bitfit full_finetuning head_only layernorm_tuning prefix_tuning prompt_tuning": (
            "golden/test_baselines.py",
        ),
    },
    "benchmark/backbones": {
        "beam_search": ("unit/test_beam_search.py",),
        "blip blip_language blip_original blip_parts": ("unit/test_blip.py",),
        "clip_bart clip_bart_language clip_bart_parts": ("unit/test_clip_bart.py",),
        "geometries": ("unit/test_geometry.py",),
        "language": ("unit/test_language.py", "unit/test_backbones.py"),
        "vit_gpt2 vit_roberta": ("unit/test_backbones.py", "unit/test_towers.py"),
        "normalisation vision": ("unit/test_backbones.py", "unit/test_clip_bart.py"),
    },
    "benchmark/metrics": {
        "accuracy": ("unit/test_accuracy.py",),
        "answer_match": ("unit/test_answer_match.py",),
        "base": ("unit/test_accuracy.py", "unit/test_vqa_accuracy.py"),
        "caption_tokens captions": ("unit/test_caption_metrics.py",),
        "vqa_accuracy": ("unit/test_vqa_accuracy.py",),
        "vqa_accuracy_vl_adapter": ("unit/test_vqa_accuracy_vl_adapter.py",),
    },
    "benchmark/run": {
        "augmentation": ("unit/test_augmentation.py",),
        "evaluation": ("unit/test_ahead.py", "end_to_end/test_eval_batch.py"),
        "feature_cache features": ("unit/test_features.py",),
        "batches finite loop model optimizer": (
            "golden/test_training_literal.py",
            "unit/test_training.py",
        ),
        "cost flops": ("unit/test_work.py",),
        "inputs": ("unit/test_inputs.py", "end_to_end/test_eval_batch.py"),
        "selection": ("unit/test_selection.py",),
    },
    "results/statistics": {
        "comparisons": ("unit/test_significance.py", "unit/test_partial_tables.py"),
        "crossed paired": ("unit/test_statistics.py",),
        "power seeds": ("unit/test_seeds.py",),
        "significance": ("unit/test_significance.py", "unit/test_partial_tables.py"),
    },
}

# Files of these rooms that compute no number of a record or a table.
SKIPPED = {
    "benchmark/backbones": "fetching files weights",
    "benchmark/metrics": "java",
    "benchmark/run": (
        "checkpoint compile devices distributed fetch_ahead fitting memory plugins ranks result "
        "runner runtime screen sources texts"
    ),
}


def tests_of(path: str) -> tuple[str, ...]:
    """Return the tests of a file, or () if it is skipped."""
    room, _, name = path.removesuffix(".py").rpartition("/")
    for names, tests in TESTS[room].items():
        if name in names.split():
            return tuple(f"tests/{test}" for test in tests)
    return ()
