"""What a cell is, and the files that it leaves in a result folder."""
