"""The names of the task suites, for those who list them and load none."""

SUITES = {
    "mini6": "six real image tasks from five sources, 28x28 grey; about 53 MB to fetch",
    "crisp8": "eight real image tasks with strong experts, 28x28 grey; about 53 MB to fetch",
    "images": "nine real image tasks, 32x32 colour, and pre-training sets; about 410 MB to fetch",
    "text": "five real text classification tasks, 32 tokens of MiniLM's vocabulary; about 155 MB to fetch",
    "text-unseen": "a further text task (authors of election tweets) for generalisation tests",
    "earth": "four real land-cover tasks of three sensors, 28x28, 3 bands (extra earth); about 29 MB to fetch",
    "ta8": "the papers' eight tasks for CLIP, from the data hub (extra hub)",
    "fixture": "five small redistributable image tasks for tests, 28x28 grey; no network",
}
