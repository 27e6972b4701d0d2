"""What several families of item tokenizers are made of."""
