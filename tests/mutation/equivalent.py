"""Mutants that change no number, with the reason. The key is (file, line of source, change)."""

from __future__ import annotations

EQUIVALENT: dict[tuple[str, str, str], str] = {
    (
        "methods/p_adapter_paper.py",
        "return torch.where(degrees > 0, degrees, 1.0)",
        "1.0 -> 2.0",
    ): "no query reads such a node, so its edges are 0 for any degree above 0",
    (
        "benchmark/run/feature_cache.py",
        'if kept != "float32":',
        "kept != \"float32\" -> kept == 'float32'",
    ): "either way the two precisions have different keys; old caches are computed again",
    (
        "benchmark/run/feature_cache.py",
        "_allocate(temporary)",
        "_allocate(temporary) -> pass",
    ): "it acts on a full disk only, which tests/end_to_end/test_disk.py fills",
    (
        "benchmark/backbones/blip.py",
        "return super().ranked(visual, prompts)",
        "super().ranked(visual, prompts) -> super().ranked(prompts, visual)",
    ): "it returns an empty list for each example, and both have one row per example",
    (
        "benchmark/backbones/blip_parts.py",
        "if copies > 1 and reads_probabilities(self):",
        "copies > 1 and reads_probabilities(self) -> copies > 1 or reads_probabilities(self)",
    ): "both branches compute the same attention; one copies the keys and needs more memory",
    (
        "benchmark/backbones/vit_gpt2.py",
        "use_cache=False,",
        "False -> True",
    ): "a cache that nothing reads costs memory only",
    (
        "methods/p_laplacian.py",
        "d_squared = d_norm.mul_(root.square_()).masked_fill_(equal, 0.0)",
        "0.0 -> 0.1",
    ): "it multiplies x - y, which is 0 between equal nodes",
}
