"""All code that touches private parts of Keras or its backends, with the version in which they were read."""
