"""Check whether this environment computes the expected values.

Fixed inputs and weights go in, numbers come out, and these are compared with committed numbers.

- `parts.py` names the parts of a verification, and says which of them a cell uses.
- `images.py`, `tokenizers.py`, `metrics.py`, `formulas.py` and `model_checks.py` hold the checks.
- `expected/` holds the committed values, which `vlpeft verify --write` computes on a CPU.
- `runner.py` runs the checks.
- `stamp.py` remembers what has passed.
- `gate.py` refuses to run cells if a check fails.

This file imports nothing, so that a verified environment is recognised without importing torch.
"""
