"""Corpora, training, evaluation, publication and the command `nertrainer`."""
