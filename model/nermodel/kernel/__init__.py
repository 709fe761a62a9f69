"""The native kernel: C++ sources, and the libraries built of them."""
