"""A base and an expert, and two adapters of that base."""

from tests.docs.given import pretrained

from manyone.merging.static.lora import extract, plan_extraction

pretrained("base", ["expert-a", "expert-b"])
for name in "ab":
    plan = plan_extraction("base", f"expert-{name}", rank=2, others="drop")
    extract(plan, f"adapter-{name}")
