"""Export a trained cell: adapter folders, hub formats, model cards, predictions."""
