"""A model's parameters as data: reading, writing, arithmetic, stacks, selection and sparse storage. Knows no field."""
