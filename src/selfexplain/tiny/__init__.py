"""The embedded models: their generated world, their tokenizer and the code that trains them."""
