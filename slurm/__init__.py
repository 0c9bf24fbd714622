"""Launching cells: here and now, in local workers, on a SLURM cluster."""
