"""The contract between methods and backbones: what each side may rely on."""
