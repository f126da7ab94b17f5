"""Feature description: which inputs activate a direction of the residual stream?

The answer is the description itself, as plain text.
"""

from selfexplain.tasks.question import Question, fill
from selfexplain.tasks.task import Task

TEMPLATES = (
    "What does {activation} at layer {layer} encode?\n",
    "At layer {layer}, {activation} is active on:\n",
    "Describe the feature {activation} at layer {layer}.\n",
    "Which inputs make {activation} active at layer {layer}?\n",
)


def question(layer: int, template: int = 0) -> Question:
    """Ask about one vector from the output of decoder block `layer`; `template` is an index into `TEMPLATES`."""
    return fill(TEMPLATES[template], layer=str(layer))


TASK = Task(
    name="feature_description",
    asks="which inputs make a direction of the residual stream active",
    short_question="What does this vector stand for?",
    columns={
        "layer": "integer",
        "feature_index": "integer",
        "sae_release": "text",
        "sae_id": "text",
        "description": "text",
        "description_source": "text",
        "exemplars": "exemplars",
        "scoring_exemplars": "exemplars",
        "simulator_score": "real",
        "density": "real",
    },
    query_columns=("layer",),
    metrics=("simulator_correlation", "detection_balanced_accuracy"),
    headline="simulator_correlation",
    correct_when="the description's simulator correlation is at least half of the ground truth's",
    dataset_name="selfexplain-features",
    split_unit="feature",
    templates=TEMPLATES,
    has_vectors=True,
    strata=("layer",),
    max_tokens=40,
)
