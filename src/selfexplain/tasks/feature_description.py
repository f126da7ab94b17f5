"""Feature description: what inputs make this direction of the residual stream active?

The answer is the description itself, plain text.
"""

from selfexplain.tasks.question import Question, fill

TEMPLATES = (
    "What does {activation} at layer {layer} encode?\n",
    "At layer {layer}, {activation} is active on:\n",
    "Describe the feature {activation} at layer {layer}.\n",
    "Which inputs make {activation} active at layer {layer}?\n",
)


def question(layer: int, template: int = 0) -> Question:
    """Ask about one vector, taken after decoder block `layer`."""
    return fill(TEMPLATES[template], layer=str(layer))
