"""Official PyTorch checkpoints, read without PyTorch, and their weights in our layers.

May import `nn`, `genotypes` and the single files. Begin with `weights`.
"""
