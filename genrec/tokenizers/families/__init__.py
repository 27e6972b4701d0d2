"""Item tokenizers, one file per family."""
