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
    (
        "benchmark/metrics/captions.py",
        "found.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))",
        "len(words) - n -> len(words) + n",
    ): "it adds shorter ends of the caption, which are n-grams already, and the empty one to all",
    (
        "benchmark/metrics/captions.py",
        "found.update(tuple(words[i : i + n]) for i in range(len(words) - n + 1))",
        "1 -> 2",
    ): "it adds shorter ends of the caption, which are n-grams already, and the empty one to all",
    (
        "benchmark/metrics/base.py",
        "per_example: Mapping[str, tuple[float, ...]] = field(default_factory=dict)",
        "field(default_factory=dict) -> field()",
    ): "a metric that leaves it out then fails, and no number changes",
    (
        "results/statistics/significance.py",
        "for backbone, task, dataset, metric, *cell in zip(*values, strict=True):",
        "zip(*values, strict=True) -> zip(*values)",
    ): "the columns of a frame are equally long",
    (
        "benchmark/run/batches.py",
        "size = micro_batch or max(1, len(batch))",
        "1 -> 2",
    ): "pieces of at most two items of a batch of at most one are the same",
    (
        "benchmark/run/features.py",
        "width = features.shape[1]",
        "1 -> 2",
    ): "it is in an error, and fails for features, which have two axes",
    (
        "benchmark/run/inputs.py",
        "SPLITS_KEPT = 8  # enough for the three splits of two tasks",
        "8 -> 9",
    ): "more splits are kept in memory",
    (
        "benchmark/run/loop.py",
        "if len(feeds) > 1:",
        "len(feeds) > 1 -> len(feeds) >= 1",
    ): "the one feed is followed already",
    (
        "baselines/hyperformer.py",
        "nn.Linear(self.projected, _adapter_count(site.width, self.size))",
        "_adapter_count(site.width, self.size) -> _adapter_count(self.size, site.width)",
    ): "the count of an adapter is symmetric in width and size",
    (
        "baselines/hyperformer.py",
        "layers[site.side] = max(layers.get(site.side, 0), site.layer + 1)",
        "0 -> 1",
    ): "a side with a site has at least one layer",
    (
        "benchmark/run/feature_cache.py",
        "if found.dtype != np.dtype(kept) or found.ndim < 2 or len(found) != rows:",
        "found.ndim < 2 -> found.ndim <= 2",
    ): "a cache of one vector an image is then computed again",
}
