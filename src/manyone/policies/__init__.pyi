from .loading import load_policy as load_policy
