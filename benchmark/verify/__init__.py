"""Does this environment compute what it should? Fixed inputs and weights in, numbers out, compared with committed ones.

`parts.py` names the parts and which of them a cell uses; `images.py`, `tokenizers.py`, `metrics.py`, `formulas.py` and
`models.py` hold the checks; `expected/` holds the committed values, which `vlpeft verify --write` computes on a CPU.
`runner.py` runs the checks; `stamp.py` remembers what passed; `gate.py` refuses to run cells where a check fails.

Nothing is imported here, so that a stamped environment is recognised without importing torch.
"""
