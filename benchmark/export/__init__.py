"""Take a trained cell along: adapter folders, hub formats, model cards, predictions."""
