"""What touches private parts of Keras and of its backends, each trick with the version in which it was read."""
