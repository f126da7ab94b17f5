"""The parts of the grammar of descriptions: sets of words, and the text that they are matched with."""
