"""Known methods of parameter-efficient fine-tuning, one file each."""
