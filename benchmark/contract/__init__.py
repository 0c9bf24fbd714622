"""What methods and backbones promise each other."""
