"""The gradient through an inner training: by hand for our networks, by autograd for any module."""
