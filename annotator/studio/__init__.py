"""Label Studio: the place where people answer, reached over HTTP or run on this machine."""
