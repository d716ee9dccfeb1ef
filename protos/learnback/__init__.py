"""The contract of learnback: protocol buffers and the code generated from them."""
