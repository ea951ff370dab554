"""What machines say of the texts. So far: their vectors.

`encoder` turns texts into vectors and knows the libraries that do it; `chunking` is the
arithmetic of texts that are longer than the encoder's window; `embeddings` owns the tables and
the files that keep the vectors.
"""
