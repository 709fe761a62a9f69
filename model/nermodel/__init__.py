"""What a model is: text, vocabulary, tags, network, CRF and checkpoint, shared by server and trainer."""
