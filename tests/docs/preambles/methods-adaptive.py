"""A causal language model, two experts of it and their prompts."""

from tests.docs.given import language_models

language_models(
    "base-lm",
    {
        "mood": {"the film was grim so i am": "sad", "the film was kind so i am": "happy"},
        "kind": {"the oak is a": "plant", "the wolf is a": "animal"},
    },
)
