"""One residual language model around any mixer, its generation, and the published sizes."""
