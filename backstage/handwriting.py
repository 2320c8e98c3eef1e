"""A photo or drawing becomes an image like MNIST's (placeholder, being written)."""


def read_own_digit(path):
    raise NotImplementedError
